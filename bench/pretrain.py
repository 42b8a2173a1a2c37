"""``python -m bench.pretrain``: train vit-t to classify source clips, and save its backbone.

The clips are those of an embedded data set. The result is a checkpoint like the shipped ones, and a JSON file
with the command, the seed and the hash; the miniature's was trained on version 1 of its clips. Source
and target data differ in scene, speed and classes, as Kinetics and THUMOS do.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.config.arguments import real, whole
from bench.io.errors import InputError
from bench.io.exit_code import CommandParser, run_command
from datasets.cards.cards import GENERATED

if TYPE_CHECKING:
    from torch import Tensor


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    result = CommandParser(prog="python -m bench.pretrain", description=__doc__)
    result.add_argument("--dataset", choices=GENERATED, default="miniature", help="default: miniature")
    result.add_argument(
        "--output", type=Path, help="checkpoint to write (default: the shipped one of the seed)"
    )
    result.add_argument("--cache", type=Path, help="folder for generated data")
    result.add_argument("--seed", type=whole(0), default=0)
    result.add_argument("--steps", type=whole(1), default=250)
    result.add_argument("--batch-size", type=whole(1), default=32)
    result.add_argument(
        "--learning-rate", type=real(lambda value: 0 < value < 1e30, "more than 0"), default=1e-3
    )
    result.add_argument("--threads", type=whole(1, 1024), default=1)
    return result


@dataclasses.dataclass(frozen=True)
class SourceClips:
    """Decoded source clips (N, 3, T, H, W), uint8, and their class indices, by subset."""

    classes: tuple[str, ...]
    labels_sha256: str
    pictures_sha256: str
    training: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]


def load_source(dataset: str, cache: Path | None, size: int) -> SourceClips:
    """Return an embedded data set's source clips, cut to the shortest length; generated if missing."""
    import numpy as np
    import torch
    from tqdm import tqdm

    from bench.io.reading import file_sha256
    from datasets import miniature, synthetic
    from datasets.miniature import read_pictures_sha256, read_source
    from datasets.video.frames import read_frames

    if dataset == "synthetic":
        config, folder = synthetic.SOURCE, synthetic.generate_source(cache)
    else:
        config = miniature.MiniatureConfig()
        folder = miniature.generate_source(config, cache)
    classes, clips = read_source(folder)
    labels_sha256, pictures_sha256 = file_sha256(folder / "labels.json"), read_pictures_sha256(folder)
    times = (np.arange(config.source_frames[0]) + 0.5) / config.frames_per_second
    parts: dict[str, tuple[list[Tensor], list[int]]] = {"training": ([], []), "validation": ([], [])}
    for clip in tqdm(clips, desc="decoding", disable=not sys.stderr.isatty()):
        frames, labels = parts[clip.subset]
        frames.append(torch.from_numpy(read_frames(clip.path, times, size)).permute(3, 0, 1, 2))
        labels.append(classes.index(clip.label))
    stacked = {name: (torch.stack(frames), torch.tensor(labels)) for name, (frames, labels) in parts.items()}
    return SourceClips(classes, labels_sha256, pictures_sha256, **stacked)


def output_path(options: argparse.Namespace) -> Path:
    """Return the checkpoint to write; raise InputError if no shipped one has the seed and none is given."""
    from bench.models import SHIPPED_NAMES, shipped_weights

    if options.output:
        return Path(options.output)
    prefix = "source-" if options.dataset == "synthetic" else "source"
    seeds = [0] if prefix == "source" else [int(n[len(prefix) :]) for n in SHIPPED_NAMES if prefix in n]
    if options.seed not in seeds:
        allowed = " and ".join(map(str, seeds))
        raise InputError(
            f"--output: needed for seed {options.seed}, as {options.dataset} ships checkpoints of seed "
            f"{allowed} only"
        )
    return shipped_weights(f"{prefix}{options.seed}" if prefix == "source-" else prefix, options.dataset)


def pretrain(options: argparse.Namespace) -> dict[str, object]:
    """Train, write the checkpoint and its description, and return the description."""
    import numpy as np
    import torch
    from safetensors.torch import save
    from torch import nn
    from tqdm import trange

    from bench.config.presets import default_protocol
    from bench.io.reading import file_sha256
    from bench.io.writing import write_atomically
    from bench.models import build_backbone
    from bench.training.optimizer import schedule

    output = output_path(options)
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    size = default_protocol("vit-t", dataset=options.dataset).image_size
    source = load_source(options.dataset, options.cache, size)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    backbone = build_backbone("vit-t", image_size=size)
    classifier = nn.Linear(backbone.geometry.width, len(source.classes))
    model = nn.ModuleDict({"backbone": backbone, "classifier": classifier})
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.05)
    frames = backbone.geometry.clip_frames

    def logits(clips: torch.Tensor) -> torch.Tensor:
        tokens = backbone.tokens(backbone.normalise(clips))
        result: torch.Tensor = classifier(tokens.mean(dim=(1, 2, 3)))
        return result

    def accuracy() -> float:
        model.eval()
        clips, labels = source.validation
        with torch.no_grad():
            first = (clips.shape[2] - frames) // 2
            guesses = [logits(part[:, :, first : first + frames]).argmax(1) for part in clips.split(64)]
        model.train()
        return float((torch.cat(guesses) == labels).float().mean())

    clips, labels = source.training
    for step in trange(options.steps, disable=not sys.stderr.isatty()):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * schedule(step, options.steps, 0.1)
        chosen = torch.from_numpy(rng.integers(0, len(clips), options.batch_size))
        first = int(rng.integers(0, clips.shape[2] - frames + 1))
        batch = clips[chosen][:, :, first : first + frames].float()
        # Vary brightness and contrast of the whole clip, which are independent of its motion.
        gain = torch.from_numpy(rng.uniform(0.8, 1.2, (len(batch), 1, 1, 1, 1))).float()
        shift = torch.from_numpy(rng.uniform(-20, 20, (len(batch), 1, 1, 1, 1))).float()
        loss = nn.functional.cross_entropy(logits(batch * gain + shift), labels[chosen], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    write_atomically(
        output, save({name: value.contiguous() for name, value in backbone.state_dict().items()})
    )
    note: dict[str, object] = {
        "command": f"python -m bench.pretrain --dataset {options.dataset} "
        f"--seed {options.seed} --steps {options.steps} "
        f"--batch-size {options.batch_size} --learning-rate {options.learning_rate} "
        f"--threads {options.threads}",
        "seed": options.seed,
        "source_group": f"vit-t, {options.dataset}",
        "source_labels_sha256": source.labels_sha256,
        "source_pictures_sha256": source.pictures_sha256,
        "source_classes": list(source.classes),
        "training_clips": len(labels),
        "validation_accuracy": round(accuracy(), 4),
        "sha256": file_sha256(output),
        "bytes": output.stat().st_size,
        "licence": "Apache-2.0",
        "seconds": round(time.perf_counter() - started),
        "torch": torch.__version__,
    }
    write_atomically(output.with_suffix(".json"), (json.dumps(note, indent=1) + "\n").encode())
    return note


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; invalid input prints one line and returns exit code 2."""

    def action(options: argparse.Namespace) -> int:
        print(json.dumps(pretrain(options), indent=1))
        return 0

    return run_command(parser(), arguments, action)


if __name__ == "__main__":
    sys.exit(main())
