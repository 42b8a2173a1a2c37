"""Backbones and the detection head, by name. Importing this package loads neither torch nor timm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.io import PROJECT_ROOT
from bench.io.errors import InputError

if TYPE_CHECKING:
    from bench.models.actionformer.model import ActionFormer
    from bench.models.backbone import Backbone

SOURCE_WEIGHTS = PROJECT_ROOT / "datasets" / "miniature" / "vit-t-source.safetensors"
"""vit-t, trained on version 1 of the miniature's source clips by ``python -m bench.pretrain``."""
SYNTHETIC_WEIGHTS = {
    f"source-{seed}": PROJECT_ROOT / "datasets" / "synthetic" / f"vit-t-source-{seed}.safetensors"
    for seed in (0, 1)
}
"""vit-t, trained on the synthetic data set's source clips with two seeds of pre-training."""
SHIPPED_NAMES = ("source", *SYNTHETIC_WEIGHTS)


def shipped_weights(name: str, dataset: str) -> Path:
    """Return vit-t's shipped checkpoint of a name of ``SHIPPED_NAMES`` for runs on a data set.

    ``source`` is ``source-0`` on the synthetic data set, and the miniature's checkpoint elsewhere. Raises
    InputError for the others elsewhere, which were trained at another frame rate.
    """
    if dataset == "synthetic":
        return SYNTHETIC_WEIGHTS["source-0" if name == "source" else name]
    if name != "source":
        raise InputError(f"weights: {name} is of the data set synthetic; allowed are 'source' and a path")
    return SOURCE_WEIGHTS


MODEL_NAMES = (
    *("vit-t", "vit-s", "vit-b", "vit-l", "vit-h", "vit-g"),
    *("tsm-r18", "tsm-r34", "tsm-r50", "tsm-mobilenetv2"),
    "i3d",
    "dinov2-s",
)
FEATURES = "features"
"""The name under which features in files stand in for a backbone."""
INPUT_NAMES = (*MODEL_NAMES, FEATURES)


def parts_of(name: str) -> frozenset[str]:
    """Return what strategies can change of a model: ``backbone``, and ``attention`` of a transformer."""
    if name == FEATURES:
        return frozenset()
    return frozenset({"backbone", "attention"} if name.startswith("vit-") else {"backbone"})


def build_backbone(
    name: str,
    weights: str | Path | None = None,
    image_size: int | None = None,
    clip_frames: int | None = None,
    positions: Literal["interpolated", "recomputed"] = "interpolated",
    *,
    feature_width: int | None = None,
    feature_steps: int | None = None,
) -> Backbone:
    """Return the backbone ``name``, one of ``MODEL_NAMES``, or ``features`` for features in files.

    ``weights`` is the path of a checkpoint (``bench.models.pretrained``); without it the weights are
    drawn from torch's global generator. ``image_size`` (pixels) and ``clip_frames`` replace the model's own.
    ``positions`` says how a published ViT gets those of sizes other than its weights'
    (``bench.config.protocol.Protocol``); other families have none. ``feature_width`` and ``feature_steps``
    (for each clip) are those of features in files.
    The report of loading is ``backbone.load_audit`` (``bench.models.pretrained.LoadAudit`` or None).
    Raises ``InputError`` for an unknown name and for a checkpoint that does not fit.
    """
    if name == FEATURES:
        from bench.models.backbones.features import FeatureBackbone

        return FeatureBackbone(feature_width, clip_frames, feature_steps)
    if name not in MODEL_NAMES:
        raise InputError(f"model {name!r}: allowed are {', '.join(INPUT_NAMES)}")
    from bench.models.pretrained import load_model
    from bench.models.registry import family_of

    family = family_of(name)
    backbone = family.build(
        name, image_size=image_size, clip_frames=clip_frames, interpolated=positions == "interpolated"
    )
    if weights is not None:
        backbone.load_audit = load_model(backbone, weights, family.layout, backbone.fixed())
    return backbone


def build_head(
    *, input_dim: int, num_classes: int, weights: str | Path | None = None, **config: Any
) -> ActionFormer:
    """Return an ActionFormer head for features of ``input_dim`` channels and ``num_classes`` classes.

    ``config`` uses ActionFormer's names (``bench.models.actionformer.config``); those of ``train_cfg`` and
    ``test_cfg`` may be given in mappings of these names or directly. ``weights`` is the path of a checkpoint
    with the released names. Raises ``InputError`` that lists the known names for an unknown one.
    """
    from bench.models.actionformer.config import head_config
    from bench.models.actionformer.model import ActionFormer
    from bench.models.pretrained import load_model
    from bench.models.state_dict_layouts import HEAD_LAYOUT

    head = ActionFormer(head_config({"input_dim": input_dim, "num_classes": num_classes, **config}))
    head.load_audit = None if weights is None else load_model(head, weights, HEAD_LAYOUT)
    return head
