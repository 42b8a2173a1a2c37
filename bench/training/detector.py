"""The detector: backbone, strategy and head, with initial values from separate seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parametrize

from bench.config.protocol import HeadSize, Protocol
from bench.data.time_grid import head_steps_per_clip
from bench.io.errors import InputError
from bench.models import build_backbone, build_head
from bench.models.actionformer.input_map import map_inputs
from bench.models.actionformer.model import ActionFormer
from bench.models.backbone import Backbone
from bench.models.backbones.vit import Attention
from bench.models.pretrained import LoadAudit
from bench.models.random_state import derived_seed
from strategies.base import Stage, Strategy, learning_rates


def build_detector(
    model: str, weights: Path | None, strategy: Strategy, protocol: Protocol, classes: int, seed: int
) -> tuple[Detector, Callable[[], ActionFormer], LoadAudit | None]:
    """Return the detector, a function that creates a new head, and the audit of loading the weights.

    Backbone, head and adapters draw their initial values from separate seeds, so that the heads of all
    strategies start from the same values.
    """
    torch.manual_seed(derived_seed(seed, "backbone"))
    backbone = build_backbone(
        model,
        weights,
        image_size=protocol.image_size,
        clip_frames=protocol.clip_frames,
        positions=protocol.positions,
        feature_width=protocol.feature_width,
        feature_steps=protocol.steps_per_clip,
    )
    torch.manual_seed(derived_seed(seed, "adapter"))
    adapted = strategy.adapt(backbone)
    if not isinstance(adapted, Backbone):
        raise InputError(
            f"strategy {strategy.name}: adapt() returns {type(adapted).__name__}, allowed is a Backbone"
        )
    fresh_head = head_factory(strategy, protocol, adapted, classes, seed)
    return Detector(adapted, fresh_head()), fresh_head, getattr(backbone, "load_audit", None)


def head_factory(
    strategy: Strategy, protocol: Protocol, backbone: Backbone, classes: int, seed: int
) -> Callable[[], ActionFormer]:
    """Return a function that creates a new head for an adapted backbone.

    Its size is the protocol's, unless the strategy has a ``head_size`` (``strategies.base.Strategy``).
    """
    geometry = backbone.geometry
    steps = protocol.window_clips * head_steps_per_clip(protocol, geometry)

    def build(size: HeadSize) -> ActionFormer:
        return build_head(input_dim=geometry.width, num_classes=classes, **size.keywords(steps))

    def parameters(size: HeadSize) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in build(size).parameters())

    choose = getattr(strategy, "head_size", None)
    chosen = choose(protocol.head, backbone, parameters) if choose else protocol.head

    def fresh_head() -> ActionFormer:
        torch.manual_seed(derived_seed(seed, "head"))
        head = build(chosen)
        map_inputs(head, protocol.input_norm, protocol.input_scale)
        return head

    return fresh_head


CAST_AT_USE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, Attention)
"""Modules that use their own parameters only in operations for which autocast casts them."""


@torch.no_grad()
def lower_frozen_weights(detector: Detector, stages: Sequence[Stage], protocol: Protocol) -> int:
    """Store frozen weights that autocast would cast at every use in bfloat16; return the bytes saved.

    Frozen weights are those that no stage trains. The cast is that of autocast, so results are bit-identical.
    """
    if protocol.precision != "bfloat16" or not protocol.lean.low_precision_frozen:
        return 0
    known = dict(detector.named_parameters())
    trained = {id(known[name]) for name in detector.trained_names(stages)}
    saved = 0
    for module in detector.backbone.upstream().modules():
        if not isinstance(module, CAST_AT_USE) or parametrize.is_parametrized(module):
            continue
        for _, parameter in module.named_parameters(recurse=False):
            if parameter.dtype == torch.float32 and id(parameter) not in trained:
                parameter.data = parameter.data.to(torch.bfloat16)
                saved += 2 * parameter.numel()
    return saved


class Detector(nn.Module):
    """A backbone and a head. A strategy's rules match the names of its parameters.

    Parameters of the backbone whose ``requires_grad`` is false at construction, because the strategy's
    ``adapt`` has set it, match no rule and stay frozen.
    """

    def __init__(self, backbone: Backbone, head: ActionFormer) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.frozen_names = frozenset(
            f"backbone.{name}" for name, each in backbone.named_parameters() if not each.requires_grad
        )

    def learning_rates(self, stage: Stage) -> dict[str, float]:
        """Return the learning-rate factor of every parameter that the stage trains, by name."""
        names = (name for name, _ in self.named_parameters() if name not in self.frozen_names)
        return learning_rates(stage.rules, names)

    def trained_names(self, stages: Sequence[Stage]) -> set[str]:
        """Return the names of the parameters that any of the stages trains."""
        return {name for stage in stages for name in self.learning_rates(stage)}


def set_training_mode(module: nn.Module, parent_trains: bool = False) -> None:
    """Set modules with a trainable parameter to training mode and all others to evaluation mode.

    A module without parameters (dropout, drop path) has the mode of its parent.
    """
    parameters = list(module.parameters())
    trains = any(p.requires_grad for p in parameters) if parameters else parent_trains
    module.training = trains
    for child in module.children():
        set_training_mode(child, trains)


def freeze_except(detector: Detector, stage: Stage) -> dict[str, float]:
    """Freeze all parameters that no rule of the stage names; return the others' learning-rate factors."""
    factors = detector.learning_rates(stage)
    for name, parameter in detector.named_parameters():
        parameter.requires_grad_(name in factors)
        parameter.grad = None
    set_training_mode(detector)
    return factors
