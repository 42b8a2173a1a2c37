"""The rows of published models that the suite measures, in order of value. Imports no torch."""

from __future__ import annotations

MODELS = ("vit-l", "vit-h", "vit-s")
POINTS = ((768, 224), (3072, 224), (96, 224), (768, 336), (768, 112), (1536, 224), (384, 224))
"""Frames and pixels of ViT-B, in order of value."""
FIRST = (("head-only,losa", "plain"), ("full-finetune", "streamed"), ("full-finetune", "plain"))
THEN = (("full-finetune", "checkpointed"), ("lofi", "streamed"))
LARGEST = (
    *(("head-only", "plain"), ("full-finetune", "streamed"), ("losa", "plain")),
    *(("full-finetune", "checkpointed"), ("lofi", "streamed"), ("full-finetune", "plain")),
    *(("lofi", "checkpointed"), ("lofi", "plain"), ("losa", "checkpointed"), ("mlp-control", "plain")),
)
"""Strategies and backward modes of ViT-g, in order of value."""
ADATAD = (("vit-b", "plain"), ("vit-g", "checkpointed"), ("vit-b", "checkpointed"), ("vit-g", "plain"))
"""Models and backward modes of AdaTAD at the size of its public logs, 768 frames of 160 pixels."""
FIELD = (
    "lora",
    "side-tuning",
    "adatad-beside",
    "token-pruning",
    "etad",
    "vpt",
    "norm-tuning",
    "bitfit",
    "last-k",
)
"""Strategies of the field with ViT-g, checkpointed, after the rows of ViT-B."""


def configurations() -> list[tuple[str, ...]]:
    """Return the options of ``bench.plan`` for all rows, in order of value."""
    found: list[tuple[str, ...]] = [
        ("--model", "vit-g", "--strategy", strategy, "--backward", mode) for strategy, mode in LARGEST
    ]
    found += [
        ("--model", model, "--frames", "768", "--size", "160", "--strategy", "adatad", "--backward", mode)
        for model, mode in ADATAD
    ]
    points = [("--model", "vit-b", "--frames", str(frames), "--size", str(size)) for frames, size in POINTS]
    models: list[tuple[str, ...]] = [("--model", model) for model in MODELS]
    for several, part in ((points, FIRST), (models, FIRST), (points, THEN), (models, THEN)):
        for point in several:
            found += [(*point, "--strategy", strategy, "--backward", mode) for strategy, mode in part]
    found += [("--model", "vit-g", "--strategy", name, "--backward", "checkpointed") for name in FIELD]
    return found
