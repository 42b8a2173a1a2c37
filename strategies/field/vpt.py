"""VPT (Jia et al., ECCV 2022, arXiv 2203.12119): learnable prompt tokens in every block of a frozen ViT."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from strategies.base import Rule, Stage

if TYPE_CHECKING:
    from bench.models.backbone import Backbone


@dataclasses.dataclass(frozen=True)
class VPT:
    """Train prompt tokens and the head: VPT-deep, section 3.2, equations 6 and 7.

    Every block gets its own prompts before the tokens of a clip and drops their outputs. The backbone is
    frozen, and the gradient flows through it. The untrained prompts change the features: attention also
    reads them. There is no dropout on prompts, as in the defaults of the authors' code.
    """

    name: ClassVar[str] = "vpt"
    needs: ClassVar[tuple[str, ...]] = ("backbone", "attention")
    prompts: int = 10
    """Chosen: prompt tokens in each block. The paper searches from 1 to 200 for every data set; the authors'
    code has 5 by default."""
    lr: float = 1.0
    """Head learning rate, in multiples of the protocol's."""
    prompt_lr: float = 1.0
    """Chosen: learning rate of the prompts, in multiples of the protocol's."""

    def __post_init__(self) -> None:
        if self.prompts < 1:
            raise ValueError(f"prompts: allowed is 1 or more, got {self.prompts}")

    def adapt(self, backbone: Backbone) -> Backbone:
        # Imported here, so that commands that only read the settings do not load torch.
        from strategies.field.blocks.prompts import insert_prompts

        return insert_prompts(backbone, self.prompts)

    def stages(self) -> tuple[Stage, ...]:
        rules = (Rule(r"backbone\..*\.prompts", self.prompt_lr), Rule(r"head\..*", self.lr))
        return (Stage("prompts", rules),)
