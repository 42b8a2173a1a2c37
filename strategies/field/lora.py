"""LoRA (Hu et al., ICLR 2022, arXiv 2106.09685) by the library peft: low-rank updates of frozen weights."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from strategies.base import Rule, Stage

if TYPE_CHECKING:
    from bench.models.backbone import Backbone

Targets = Literal["qv", "all-linear"]


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Train low-rank updates of linear layers, and the head: W + (alpha / rank) B A, section 4.1.

    A (rank, D) is drawn as by ``torch.nn.Linear``, B (D, rank) is zero at first. The backbone is frozen, and
    the gradient flows through it. The fused projection of VideoMAE's attention is split into linear layers
    for queries, keys and values, which changes features by rounding.

    Differs: no dropout before A, as no strategy here has any; the paper has it for its language models.
    """

    name: ClassVar[str] = "lora"
    needs: ClassVar[tuple[str, ...]] = ("backbone", "attention")
    packages: ClassVar[tuple[tuple[str, str], ...]] = (("peft", "lora"),)
    rank: int = 8
    """Rank of an update (8 and 16 are usual)."""
    alpha: int | None = None
    """Scale of the updates, in multiples of 1 / rank; None means twice the rank."""
    targets: Targets = "qv"
    """The layers: those of queries and values (the paper's choice, section 7.1), or all linear ones of the
    blocks: queries, keys, values, the attention's output and both of the MLP."""
    merge: bool = False
    """Add the updates to the weights for inference, as in section 4.1. Afterwards the weights are again those
    of before, bit for bit; until then a copy of them is in host memory. Merged weights are rounded to their
    type, which changes scores in bfloat16."""
    lr: float = 1.0
    """Head learning rate, in multiples of the protocol's."""
    update_lr: float = 1.0
    """Chosen: learning rate of the updates, in multiples of the protocol's."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank: allowed is 1 or more, got {self.rank}")
        if self.alpha is not None and self.alpha < 1:
            raise ValueError(f"alpha: allowed is 1 or more, or none for twice the rank, got {self.alpha}")
        if self.targets not in get_args(Targets):
            raise ValueError(f"targets: allowed are {', '.join(get_args(Targets))}, got {self.targets}")

    def adapt(self, backbone: Backbone) -> Backbone:
        # Imported here, so that commands that only read the settings load neither torch nor peft.
        from strategies.field.blocks.low_rank import LowRankBackbone

        alpha = 2 * self.rank if self.alpha is None else self.alpha
        return LowRankBackbone(backbone, self.rank, alpha, self.targets, merge=self.merge)

    def stages(self) -> tuple[Stage, ...]:
        rules = (Rule(r"backbone\..*lora_.*", self.update_lr), Rule(r"head\..*", self.lr))
        return (Stage("low-rank updates", rules),)
