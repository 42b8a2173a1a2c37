"""The levels of the pyramid as one sequence, so that a convolution runs once for all of them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from bench.models.actionformer.layers import MaskedConv1D
from bench.models.cpu_kernels import masked_convolution, uses_cpu_kernels


@dataclasses.dataclass(frozen=True)
class JoinedLevels:
    """Levels one after the other, with so many zeros between them as half of a kernel reaches."""

    features: Tensor
    """(B, L, C)."""
    keep: Tensor
    """(B, L, 1) float: 1 where a step is valid, 0 where it is not and between levels."""
    inside: Tensor
    """(1, L + 2 * gap, 1) float: 0 between levels and in the padding, which a convolution reads as zeros."""
    lengths: tuple[int, ...]
    gap: int

    def convolution(self, x_BTC: Tensor, layer: nn.Module) -> Tensor:
        """Return (B, L, C') of (B, L, C): what ``MaskedConv1D`` returns for each level."""
        assert isinstance(layer, MaskedConv1D)
        conv = layer.conv
        return masked_convolution(x_BTC, conv.weight, conv.bias, self.keep, self.inside)

    def split(self, x_BTC: Tensor) -> list[Tensor]:
        """Return the levels (B, T_l, C) of (B, L, C)."""
        parts, first = [], 0
        for length in self.lengths:
            parts.append(x_BTC[:, first : first + length])
            first += length + self.gap
        return parts


def join_levels(levels: list[tuple[Tensor, Tensor]], kernel: int) -> JoinedLevels | None:
    """Return levels (B, C, T_l) with their masks (B, T_l) for convolutions of ``kernel`` steps.

    None on other devices than a CPU: there, joining takes memory, and a level is computed by itself.
    """
    first, gap = levels[0][0], kernel // 2
    if not kernel % 2 or not uses_cpu_kernels(first):
        return None
    batch, channels, _ = first.shape
    lengths = tuple(x_BCT.shape[2] for x_BCT, _ in levels)
    zeros, between = first.new_zeros(batch, gap, channels), first.new_zeros(batch, gap)
    features, keep = [], []
    inside = first.new_zeros(1, sum(lengths) + (len(levels) + 1) * gap, 1)
    place = gap
    for x_BCT, mask in levels:
        features += [x_BCT.transpose(1, 2), zeros]
        keep += [mask.to(first.dtype), between]
        inside[:, place : place + x_BCT.shape[2]] = 1
        place += x_BCT.shape[2] + gap
    return JoinedLevels(
        torch.cat(features[:-1], dim=1), torch.cat(keep[:-1], dim=1)[..., None], inside, lengths, gap
    )
