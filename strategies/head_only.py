"""Head-only: the usual recipe. The pre-trained backbone is frozen; only the TAL head is trained."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from strategies.base import Rule, Stage

if TYPE_CHECKING:
    from bench.models.backbone import Backbone


@dataclasses.dataclass(frozen=True)
class HeadOnly:
    """Train the head on the frozen backbone's features."""

    name: ClassVar[str] = "head-only"
    needs: ClassVar[tuple[str, ...]] = ()
    lr: float = 1.0
    """Head learning rate, in multiples of the protocol's."""

    def adapt(self, backbone: Backbone) -> Backbone:
        return backbone

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("head", (Rule(r"head\..*", self.lr),)),)
