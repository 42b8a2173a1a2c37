"""What maps a window's features before the head: one learnable factor."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class InputScale(nn.Module):
    """One learnable factor for all channels."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(value))

    def forward(self, features_BDT: Tensor) -> Tensor:
        """Return features of the same shape."""
        return features_BDT * self.factor.to(features_BDT.dtype)


def map_inputs(head: nn.Module, kind: Literal["none", "scale"], scale: float) -> None:
    """Add the map of the protocol's ``input_norm`` to the head, as ``input_map``; in place.

    Features (B, D, T) pass it first. With "none" nothing is added.
    """
    if kind == "none":
        return
    head.add_module("input_map", InputScale(scale))
    head.register_forward_pre_hook(_mapped)


def _mapped(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    features, *others = inputs
    return (head.get_submodule("input_map")(features), *others)
