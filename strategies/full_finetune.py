"""Full fine-tuning: backbone and head are trained jointly, end to end, at full fidelity."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from strategies.base import Rule, Stage

if TYPE_CHECKING:
    from bench.models.backbone import Backbone


@dataclasses.dataclass(frozen=True)
class FullFinetune:
    """Train every parameter; the backbone usually with a lower learning rate than the head."""

    name: ClassVar[str] = "full-finetune"
    lr: float = 1.0
    """Head learning rate, in multiples of the protocol's."""
    backbone_lr: float = 0.5
    """Backbone learning rate, in multiples of the protocol's."""

    def adapt(self, backbone: Backbone) -> Backbone:
        return backbone

    def stages(self) -> tuple[Stage, ...]:
        rules = (Rule(r"backbone\..*", self.backbone_lr), Rule(r"head\..*", self.lr))
        return (Stage("end-to-end", rules),)
