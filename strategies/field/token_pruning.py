"""Token pruning: later blocks of a frozen ViT run on the tokens that matter, after SV-TAD and EViT.

SV-TAD (ECCV 2026) trains adapters in video transformers with pruned tokens for temporal action localization;
EViT (Liang et al., ICLR 2022, arXiv 2202.07800) keeps the tokens that the class token attends to most. What
the sources leave open is marked ``Chosen:``.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from strategies.base import Rule, Stage

if TYPE_CHECKING:
    from bench.models.backbone import Backbone


@dataclasses.dataclass(frozen=True)
class TokenPruning:
    """Keep a share of each step's tokens after some blocks; train adapters in the blocks and the head.

    The feature of a step is the mean of the tokens that are left of it. Which ones are left may change by
    rounding: near ties, another processor or division into processes gives other detections.

    - Score, Chosen: VideoMAE has no class token, so a token's score is the attention that the mean query of
      its step gives it among the step's tokens in the next block, averaged over the heads. Every step keeps
      the same number, ceil(keep * tokens), so that shapes do not depend on the video.
    - Adapter, as SV-TAD's: after the attention of each block, h = GELU(down x); x + up(h + conv(h)), where
      conv is a sparse 3 x 3 convolution over the kept tokens of a step. Chosen: it is depth-wise.
    - Differs: SV-TAD's cross-attention with class queries is left out, since the strategies here know no
      classes. EViT's fusion of the dropped tokens into one is left out: it has no cell.
    """

    name: ClassVar[str] = "token-pruning"
    needs: ClassVar[tuple[str, ...]] = ("backbone", "attention")
    after: tuple[int, ...] = ()
    """Numbers of the blocks, from 1, after which tokens are dropped; empty: 4, 7 and 10 of 12, as SV-TAD for
    ViT-B, and the same fractions of other depths. SV-TAD's for ViT-L are 4, 8, 12 and 16 of 24."""
    keep: float = 0.6
    """Share of the tokens that is kept at each of them (SV-TAD's for VideoMAE)."""
    adapters: bool = True
    """Whether there are adapters; without them the backbone is frozen and the head alone is trained."""
    reduction: int = 4
    """Chosen: channels inside an adapter are int(D / reduction), as in AdaTAD."""
    lr: float = 1.0
    """Head learning rate, in multiples of the protocol's."""
    adapter_lr: float = 1.0
    """Adapter learning rate, in multiples of the protocol's."""

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep: allowed is above 0 and at most 1, got {self.keep}")
        if self.reduction < 1:
            raise ValueError(f"reduction: allowed is 1 or more, got {self.reduction}")
        if min(self.after, default=1) < 1 or list(self.after) != sorted(set(self.after)):
            raise ValueError(f"after: allowed are ascending numbers from 1, got {self.after}")

    def adapt(self, backbone: Backbone) -> Backbone:
        # Imported here, so that commands that only read the settings do not load torch.
        from strategies.field.blocks.pruned import PrunedBackbone

        return PrunedBackbone(backbone, self.after, self.keep, self.reduction if self.adapters else None)

    def stages(self) -> tuple[Stage, ...]:
        head = Rule(r"head\..*", self.lr)
        if not self.adapters:
            return (Stage("head", (head,)),)
        return (Stage("adapters", (Rule(r"backbone\..*\.adapter\..*", self.adapter_lr), head)),)
