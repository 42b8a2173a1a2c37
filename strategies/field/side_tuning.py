"""Ladder side-tuning (Sung, Cho and Bansal, NeurIPS 2022, arXiv 2206.06522) for video features.

A small network beside the frozen backbone takes in its intermediate features through gated connections
(section 3.2), so that no gradient passes through the backbone. Here it has no attention, on features that are
averaged over space: what an adapter with attention on cells must surpass at the same memory.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from strategies.base import Rule, Stage, layer_indices

if TYPE_CHECKING:
    from bench.models.backbone import Backbone


@dataclasses.dataclass(frozen=True)
class SideTuning:
    """Train the head and a ladder of small blocks on the layers' mean features.

    As published: one linear down-projection to 1/r of the width per tapped layer, a gate
    mu = sigmoid(alpha / T) that starts at 1/2, one block per tapped layer, a last norm and up-projection.

    Differs: a block is a depth-wise temporal convolution and an MLP where the paper has a transformer block,
    since the input is one feature per step; the first state is the first tapped feature, not the input
    embedding, and has no gate; the ladder starts from random values, not from weights of the backbone chosen
    by their Fisher information; the up-projection is zero at first and added to the last feature, so that
    training starts from it.
    """

    name: ClassVar[str] = "side-tuning"
    lr: float = 1.0
    """Head learning rate, in multiples of the protocol's."""
    side_lr: float = 1.0
    """Ladder learning rate, in multiples of the protocol's."""
    taps: tuple[int, ...] = ()
    """Tapped layers, negative ones from the end; empty means every layer (the paper drops some of them)."""
    reduction: int = 8
    """r: the ladder has 1/r of the output's channels, at least 8."""
    temperature: float = 0.1
    """T of the gates."""
    mlp_ratio: float = 4.0
    """Hidden channels of a block's MLP, in multiples of the ladder's (T5's and ViT's ratio)."""

    def __post_init__(self) -> None:
        if self.reduction < 1:
            raise ValueError(f"reduction: allowed is 1 or more, got {self.reduction}")
        for field in ("temperature", "mlp_ratio"):
            if not 0 < getattr(self, field) <= 100:
                raise ValueError(f"{field}: allowed is above 0 and at most 100, got {getattr(self, field)}")

    def adapt(self, backbone: Backbone) -> Backbone:
        # Imported here, so that commands that only read the settings do not load torch.
        from strategies.field.ladder import LadderBackbone

        geometry = backbone.geometry
        count = len(geometry.layer_widths)
        taps = layer_indices(self, "taps", count, range(count))
        width = max(8, geometry.width // self.reduction)
        return LadderBackbone(backbone, taps, width, self.mlp_ratio, self.temperature)

    def stages(self) -> tuple[Stage, ...]:
        # Everything that does not belong to the wrapped backbone.
        rules = (Rule(r"backbone\.(rungs|norm|up)\..*", self.side_lr), Rule(r"head\..*", self.lr))
        return (Stage("ladder", rules),)
