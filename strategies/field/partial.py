"""Partial tuning: a part of the backbone's own parameters is trained with the head, and nothing is added."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from bench.io.errors import InputError
from strategies.base import Rule, Stage

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor

    from bench.models.backbone import Backbone


def _freeze_except(backbone: Backbone, trained: Collection[Tensor]) -> None:
    """Freeze all parameters of the backbone that are not in ``trained``, for the whole run."""
    kept = {id(parameter) for parameter in trained}
    for parameter in backbone.parameters():
        if id(parameter) not in kept:
            parameter.requires_grad_(False)


@dataclasses.dataclass(frozen=True)
class LastK:
    """Train the last layers of the backbone and the head; nothing below them is differentiated or kept.

    A layer is a transformer's block, a stage of a ResNet, or one of I3D's four groups
    (``Backbone.layer_modules``). With all layers, the stem is trained as well: full fine-tuning.
    """

    name: ClassVar[str] = "last-k"
    k: int | None = 2
    """Number of trained layers; None means half of them, rounded down."""
    lr: float = 1.0
    """Head learning rate, in multiples of the protocol's."""
    backbone_lr: float = 0.5
    """Chosen: learning rate of the trained layers, in multiples of the protocol's; full fine-tuning's."""

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise ValueError(f"k: allowed is 1 or more, or none for half of the layers, got {self.k}")

    def adapt(self, backbone: Backbone) -> Backbone:
        layers = backbone.layer_modules()
        k = max(1, len(layers) // 2) if self.k is None else self.k
        if k > len(layers):
            raise InputError(f"strategy last-k: field 'k' is {k}, allowed are 1 to {len(layers)}, and none")
        if k < len(layers):
            modules = [module for layer in layers[-k:] for module in layer]
            _freeze_except(backbone, [each for module in modules for each in module.parameters()])
        return backbone

    def stages(self) -> tuple[Stage, ...]:
        rules = (Rule(r"backbone\..*", self.backbone_lr), Rule(r"head\..*", self.lr))
        return (Stage("last layers", rules),)


@dataclasses.dataclass(frozen=True)
class NormTuning:
    """Train scale and shift of all normalisation layers of the backbone, and the head.

    Batch norms use their stored statistics, as in every strategy; these do not change.
    """

    name: ClassVar[str] = "norm-tuning"
    lr: float = 1.0
    """Head learning rate, in multiples of the protocol's."""
    norm_lr: float = 1.0
    """Chosen: learning rate of the norms, in multiples of the protocol's."""

    def adapt(self, backbone: Backbone) -> Backbone:
        _freeze_except(backbone, [each for norm in backbone.norm_modules() for each in norm.parameters()])
        return backbone

    def stages(self) -> tuple[Stage, ...]:
        rules = (Rule(r"backbone\..*", self.norm_lr), Rule(r"head\..*", self.lr))
        return (Stage("norms", rules),)


@dataclasses.dataclass(frozen=True)
class BitFit:
    """Train all biases of the backbone, and the head (BitFit, Ben Zaken et al., ACL 2022, section 3).

    The shifts of norms are biases too; the convolutions of TSM-ResNets and I3D have no other. VideoMAE's keys
    have no bias.
    """

    name: ClassVar[str] = "bitfit"
    lr: float = 1.0
    """Head learning rate, in multiples of the protocol's."""
    bias_lr: float = 1.0
    """Chosen: learning rate of the biases, in multiples of the protocol's."""

    def adapt(self, backbone: Backbone) -> Backbone:
        # A bias of its own is named bias; those of a VideoMAE's queries and values q_bias and v_bias.
        biases = [parameter for name, parameter in backbone.named_parameters() if name.endswith("bias")]
        _freeze_except(backbone, biases)
        return backbone

    def stages(self) -> tuple[Stage, ...]:
        rules = (Rule(r"backbone\..*", self.bias_lr), Rule(r"head\..*", self.lr))
        return (Stage("biases", rules),)
