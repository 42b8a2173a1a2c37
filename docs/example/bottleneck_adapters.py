"""Bottleneck adapters (Houlsby et al., ICML 2019) after every layer of a frozen backbone."""

import dataclasses
from typing import ClassVar

from torch import Tensor, nn

from bench.models.backbone import Backbone
from strategies.base import Rule, Stage


class Bottleneck(nn.Sequential):
    """A residual MLP on each token; its last layer is zero at first, so training starts from the backbone."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        for parameter in self[2].parameters():
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, window_clips: int) -> Tensor:
        return tokens + super().forward(tokens)


@dataclasses.dataclass(frozen=True)
class BottleneckAdapters:
    name: ClassVar[str] = "bottleneck"
    hidden: int = 16  # fields are the settings: --set bottleneck.hidden=32
    adapter_lr: float = 1.0  # in multiples of the protocol's learning rate

    def adapt(self, backbone: Backbone) -> Backbone:
        backbone.insert_after_layers(lambda width: Bottleneck(width, self.hidden))
        return backbone

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("adapters", (Rule(r"backbone\.inserted\..*", self.adapter_lr), Rule(r"head\..*"))),)
