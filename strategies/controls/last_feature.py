"""Controls that train a block on the last frozen feature, with as many parameters as LoSA's adapters.

A gain of LoSA over them is not one of additional parameters: neither of them reads an intermediate layer.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from strategies.base import Rule, Stage

if TYPE_CHECKING:
    from bench.models.backbone import Backbone


@dataclasses.dataclass(frozen=True)
class MLPControl:
    """Train the head and a residual MLP on the backbone's last feature, each step by itself."""

    name: ClassVar[str] = "mlp-control"
    needs: ClassVar[tuple[str, ...]] = ()
    block: ClassVar[str] = "mlp"
    lr: float = 1.0
    """Head learning rate, in multiples of the protocol's."""
    block_lr: float = 1.0
    """Learning rate of the block, in multiples of the protocol's."""
    parameters: int | None = None
    """Parameters of the block, met as nearly as its width allows; None means those of ``LoSA()``."""

    def __post_init__(self) -> None:
        if self.parameters is not None and self.parameters < 1:
            raise ValueError(f"parameters: allowed is 1 or more, got {self.parameters}")

    def adapt(self, backbone: Backbone) -> Backbone:
        # Imported here, so that commands that only read the settings do not load torch.
        from strategies.controls.feature_blocks import FeatureBlockBackbone

        return FeatureBlockBackbone(backbone, self.block, self.parameters)

    def stages(self) -> tuple[Stage, ...]:
        rules = (Rule(r"backbone\.block\..*", self.block_lr), Rule(r"head\..*", self.lr))
        return (Stage("block", rules),)


@dataclasses.dataclass(frozen=True)
class TemporalControl(MLPControl):
    """Train the head and a residual block of two temporal convolutions on the backbone's last feature."""

    name: ClassVar[str] = "temporal-control"
    block: ClassVar[str] = "temporal"
