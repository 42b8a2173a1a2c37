"""LoFi (Xu et al., NeurIPS 2021, arXiv 2103.15233): end to end at low fidelity, then a new head.

Section 3 of the paper. Stage 1 is the usual classification pre-training and comes with the weights.
Stage 2 trains encoder and head jointly on a smaller input, so that a batch fits into memory where full
fidelity does not. Stage 3 freezes the encoder and trains a head from scratch at full fidelity.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, ClassVar, Literal

from strategies.base import Fidelity, Rule, Stage

if TYPE_CHECKING:
    from bench.models.backbone import Backbone

# Section 3.2: r_s = 2; r_t = 4; r_t = 2 with r_s = sqrt(2). Each keeps a quarter of the pixels.
SPATIAL = Fidelity(spatial=1 / 2)
TEMPORAL = Fidelity(temporal=1 / 4)
SPATIOTEMPORAL = Fidelity(temporal=1 / 2, spatial=1 / math.sqrt(2))

Variant = Literal["s", "t", "st", "short-cyclic", "long-cyclic"]


@dataclasses.dataclass(frozen=True)
class LoFi:
    """Joint low-fidelity training, then head training at full fidelity.

    Differs: the optimizer is the protocol's, equal for every strategy; the paper's joint stage uses SGD.
    Differs: so is the total number of steps, of which the joint stage takes a part; the paper adds its steps
    to those of the head, as ``LoFiAdded`` does.
    Differs: low-fidelity features are interpolated to the head's full number of steps, so that
    one head and its regression ranges serve every fidelity of a cycle.
    """

    name: ClassVar[str] = "lofi"
    added: ClassVar[bool] = False
    """Whether the joint stage's steps are added to the protocol's."""
    variant: Variant = "long-cyclic"
    lr: float = 1.0
    """Head learning rate in both stages, in multiples of the protocol's."""
    backbone_lr: float = 0.5
    """Backbone learning rate of the joint stage, in multiples of the protocol's."""
    joint_share: float = 0.5
    """Steps of the joint stage, as a fraction of the protocol's. Chosen: the paper states no epochs."""
    short_cycle_steps: int = 16
    """Batches per fidelity of the short cycle (section 3.2, c_s)."""
    long_cycle_epochs: int = 1
    """Epochs per fidelity of the long cycle (section 3.2, c_l)."""

    def __post_init__(self) -> None:
        if self.joint_share <= 0 or (self.joint_share >= 1 and not self.added):
            allowed = "above 0" if self.added else "between 0 and 1"
            raise ValueError(f"joint_share must be {allowed}, got {self.joint_share}")

    def adapt(self, backbone: Backbone) -> Backbone:
        return backbone

    def stages(self) -> tuple[Stage, ...]:
        cycle = (SPATIAL, TEMPORAL, SPATIOTEMPORAL)
        fidelities = {"s": (SPATIAL,), "t": (TEMPORAL,), "st": (SPATIOTEMPORAL,)}.get(self.variant, cycle)
        short = self.variant == "short-cyclic"
        head = Rule(r"head\..*", self.lr)
        joint = Stage(
            "joint",
            (Rule(r"backbone\..*", self.backbone_lr), head),
            share=self.joint_share,
            added=self.added,
            fidelities=fidelities,
            hold=self.short_cycle_steps if short else self.long_cycle_epochs,
            hold_unit="steps" if short else "epochs",
        )
        rest = 1.0 if self.added else 1 - self.joint_share
        return (joint, Stage("head", (head,), share=rest, fresh_head=True))


@dataclasses.dataclass(frozen=True)
class LoFiAdded(LoFi):
    """LoFi with the paper's budget: the head gets all of the protocol's steps, the joint stage others before.

    Chosen: ``joint_share`` is that of ``LoFi``, so that the joint stages of both are the same to the step and
    the rows differ in the head's steps alone. The run takes 1.5 times the steps of the other strategies.
    """

    name: ClassVar[str] = "lofi-added"
    added: ClassVar[bool] = True
