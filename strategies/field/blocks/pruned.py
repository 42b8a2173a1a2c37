"""Token pruning as modules: a frozen transformer that drops tokens, with adapters over the kept ones.

Shape legend: N clips, t steps, h w the grid, k kept tokens of a step, D channels, d channels of an adapter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.io.errors import InputError
from bench.models.backbone import Backbone, Encoded, WrappedBackbone

SELECTING = (4, 7, 10)
OF_DEPTH = 12


class KeptTokenAdapter(nn.Module):
    """A residual bottleneck with a sparse 3 x 3 convolution over the kept tokens of each step."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, inner)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.up = nn.Linear(inner, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
        """Return (N, t*k, D) of the same; ``places`` (N, t, k) are cells of the grid ``size`` (h, w).

        A convolution of the grid with zeros at dropped cells, read at the kept ones, is the sparse one.
        """
        hidden = F.gelu(self.down(tokens))
        of_steps = hidden.reshape(-1, places.shape[2], hidden.shape[2])
        index = places.reshape(-1, places.shape[2], 1).expand_as(of_steps)
        grid = of_steps.new_zeros(len(of_steps), size[0] * size[1], of_steps.shape[2])
        images = grid.scatter(1, index, of_steps).transpose(1, 2).unflatten(2, size)
        near: Tensor = self.conv(images).flatten(2).transpose(1, 2).gather(1, index)
        change: Tensor = self.up(hidden + near.reshape_as(hidden))
        return tokens + change


class AdaptedBlock(nn.Module):
    """A block with an adapter between its attention and its MLP."""

    def __init__(self, block: nn.Module, adapter: KeptTokenAdapter) -> None:
        super().__init__()
        self.block, self.adapter = block, adapter

    def forward(self, tokens: Tensor, draws: Tensor | None, places: Tensor, size: tuple[int, int]) -> Tensor:
        """Return (N, t*k, D) of the same; ``places`` and ``size`` as in ``KeptTokenAdapter``."""
        adapted: Tensor = self.block(tokens, draws, lambda attended: self.adapter(attended, places, size))
        return adapted


def step_attention(block: Any, tokens: Tensor, steps: int) -> Tensor:
    """Return (N, t, k): the attention that each step's mean query gives the step's tokens in ``block``.

    ``tokens`` (N, t*k, D) are the block's input. Averaged over the heads; a step's scores add up to 1.
    """
    plain: Any = block.block if isinstance(block, AdaptedBlock) else block
    query, key, _ = plain.attn.project(plain.norm1(tokens))
    query, key = (each.unflatten(2, (steps, -1)).float() for each in (query, key))
    mean = query.mean(dim=3, keepdim=True) / math.sqrt(query.shape[-1])
    scores: Tensor = (mean * key).sum(dim=-1).softmax(dim=-1).mean(dim=1)
    return scores


class PrunedBackbone(WrappedBackbone):
    """A frozen transformer that keeps a share of each step's tokens after some of its blocks."""

    def __init__(self, inner: Backbone, after: Sequence[int], keep: float, reduction: int | None) -> None:
        super().__init__(inner)
        blocks = inner.token_blocks()
        if blocks is None:
            raise InputError(f"strategy token-pruning: {type(inner).__name__} has no transformer blocks")
        depth, width = len(blocks), inner.geometry.width
        if after and after[-1] >= depth:
            raise InputError(
                f"strategy token-pruning: field 'after' is {after}, allowed are 1 to {depth - 1}"
            )
        scaled = (min(depth - 1, max(1, round(depth * number / OF_DEPTH))) for number in SELECTING)
        self.after = frozenset(after or scaled) if depth > 1 else frozenset()
        self.keep = keep
        if reduction is not None and int(width / reduction) < 1:
            raise InputError(
                f"strategy token-pruning: field 'reduction' is {reduction}, allowed is 1 to {width}"
            )
        inner.requires_grad_(False)
        if reduction is not None:
            for index, block in enumerate(blocks):
                blocks[index] = AdaptedBlock(block, KeptTokenAdapter(width, int(width / reduction)))

    def upstream(self) -> nn.Module:
        return self.inner

    def layers(self, clips: Tensor, taps: Sequence[int], window_clips: int = 1) -> list[Tensor]:
        """Raise NotImplementedError: kept tokens fill no grid."""
        raise NotImplementedError("kept tokens fill no grid; encode gives their means")

    def tokens(self, clips: Tensor, window_clips: int = 1) -> Tensor:
        """Raise NotImplementedError: kept tokens fill no grid."""
        raise NotImplementedError("kept tokens fill no grid; encode gives their means")

    def encode(self, clips: Tensor, window_clips: int = 1) -> Encoded:
        """Return the mean of the kept tokens of each step, (N, t, D)."""
        embedded, draws = self.inner.embed(clips)
        steps, height, width = embedded.shape[1:4]
        tokens = embedded.flatten(1, 3)
        del embedded
        places = torch.arange(height * width, device=tokens.device).expand(len(tokens), steps, -1)
        for index, block in enumerate(self._blocks()):
            if index in self.after:
                tokens, places = self._select(block, tokens, places)
            arguments: list[Any] = [tokens, None if draws is None else draws[:, index]]
            if isinstance(block, AdaptedBlock):
                arguments += [places, (height, width)]
            tokens = self.checkpointed(block, *arguments)
        return (tokens.unflatten(1, (steps, -1)).mean(dim=2),)

    def _blocks(self) -> nn.ModuleList:
        blocks = self.inner.token_blocks()
        assert blocks is not None
        return blocks

    def _select(self, block: nn.Module, tokens: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens that ``block``, the next one, gets, in the grid's order, and their cells."""
        steps, count = places.shape[1:]
        kept = math.ceil(self.keep * count - 1e-9)  # 0.55 * 100 is not above 55
        with torch.no_grad():
            scores = step_attention(block, tokens, steps)
            # Sorted by cell: attention does not depend on the order, but sums of floating-point numbers do.
            best = scores.topk(kept, dim=2).indices.sort(dim=2).values
        index = best[..., None].expand(-1, -1, -1, tokens.shape[2])
        of_steps = tokens.unflatten(1, (steps, count)).gather(2, index)
        return of_steps.flatten(1, 2), places.gather(2, best)
