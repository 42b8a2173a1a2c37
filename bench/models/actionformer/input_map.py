"""What maps a window's features before the head: one learnable factor, or the backbone's final norm."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.io.errors import InputError
from bench.models.backbone import Backbone


class InputScale(nn.Module):
    """One learnable factor for all channels."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(value))

    def forward(self, features_BDT: Tensor) -> Tensor:
        """Return features of the same shape."""
        return features_BDT * self.factor.to(features_BDT.dtype)


class InputNorm(nn.Module):
    """A norm over the channels."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, features_BDT: Tensor) -> Tensor:
        """Return features of the same shape."""
        normed: Tensor = self.norm(features_BDT.transpose(1, 2)).transpose(1, 2)
        return normed.to(features_BDT.dtype)


def make_input_map(kind: str, scale: float, backbone: Backbone) -> Callable[[], nn.Module | None]:
    """Return a function that creates the map of the protocol's ``input_norm``; it returns None for "none".

    Every module that it creates starts with the values that the backbone's norm has now. Raises InputError
    for a backbone without a final norm, or with one of other channels than its features.
    """
    if kind == "none":
        return lambda: None
    if kind == "scale":
        return lambda: InputScale(scale)
    norm, width = backbone.final_norm(), backbone.geometry.width
    if norm is None:
        raise InputError(
            "protocol: field 'input_norm' is final-norm, but the backbone has no final norm; "
            "allowed are none and scale"
        )
    if any(parameter.shape != (width,) for parameter in norm.parameters()):
        raise InputError(
            f"protocol: field 'input_norm' is final-norm, but the features have {width} channels and the "
            "norm has others; allowed are none and scale"
        )
    first = copy.deepcopy(norm).requires_grad_(True)
    return lambda: InputNorm(copy.deepcopy(first))


def map_inputs(head: nn.Module, made: nn.Module | None) -> None:
    """Make ``made`` a part of the head, as ``input_map``, that features (B, D, T) pass first; in place."""
    if made is None:
        return
    head.add_module("input_map", made)
    head.register_forward_pre_hook(_mapped)


def _mapped(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    features, *others = inputs
    return (head.get_submodule("input_map")(features), *others)
