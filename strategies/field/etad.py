"""ETAD (Liu et al., CVPR workshops 2023, arXiv 2205.07134): full fine-tuning with sampled gradients.

All clips of a window are encoded without a graph, a few at a time; head and loss give each encoding its
gradient; then a random share of the clips is encoded again with a graph, and their gradients alone are
propagated ("encoder gradient sampling"; ``forward_stage_1`` and ``forward_stage_3`` of the authors' code,
github.com/sming256/ETAD, ``lib/models/build_model.py``).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from strategies.base import Rule, Stage

if TYPE_CHECKING:
    from bench.models.backbone import Backbone


@dataclasses.dataclass(frozen=True)
class ETAD:
    """Train every parameter; in a step the backbone gets the gradient of a random share of the clips.

    Differs: one optimizer step, after both backward passes. The authors' code steps the head first, then runs
    the drawn clips again and steps the backbone. The gradients are the same: those of the encodings come from
    the loss before either step, the backbone has not changed in between, and AdamW treats parameters
    independently and leaves out those without a gradient. The norm of a clipped gradient differs: it is that
    of head and backbone together here, while that code does not clip.

    Differs: ``round(share * clips)`` clips of a window are drawn, at least one; the authors' code draws whole
    chunks of four (40 of 128 clips for 0.3). Differs: everything is trained; that code freezes the first two
    stages and the norms of its R(2+1)D-34. The authors' other part, sampled proposals, belongs to their head.
    """

    name: ClassVar[str] = "etad"
    lr: float = 1.0
    """Head learning rate, in multiples of the protocol's."""
    backbone_lr: float = 0.5
    """Backbone learning rate, in multiples of the protocol's.

    Chosen: that of full fine-tuning, to compare with it; the authors' code has 0.001 (5e-7 beside 5e-4).
    """
    share: float = 0.3
    """Share of a window's clips whose gradient is propagated, in (0, 1]; drawn anew in each step.

    With 1 this is full fine-tuning under the protocol's ``backward``.
    """
    scaled: bool = False
    """Whether that gradient is divided by the share of drawn clips, so that its mean is the full gradient.

    The authors' code does not divide. For AdamW, which is nearly invariant to the scale of a gradient, it
    matters only through clipping.
    """

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share: allowed is above 0 and at most 1, got {self.share}")

    def adapt(self, backbone: Backbone) -> Backbone:
        return backbone

    def stages(self) -> tuple[Stage, ...]:
        rules = (Rule(r"backbone\..*", self.backbone_lr), Rule(r"head\..*", self.lr))
        return (Stage("end-to-end", rules, backward_share=self.share, backward_scaled=self.scaled),)
