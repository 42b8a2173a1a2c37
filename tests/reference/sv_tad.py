"""SV-TAD (ECCV 2026) as its paper describes it: AdaTAD's training with fewer tokens from block to block.

Known: the adapter follows the attention; it is a sparse 3 x 3 convolution over the kept tokens and a
cross-attention with a class query; of ViT-L's tokens a share of 0.6 is kept after blocks 4, 8, 12 and 16.
Chosen, as nothing is printed: AdaTAD's width, a dense grid behind the sparse convolution, one query for each
step, an equal number of kept tokens in each step, everything else as in ``adatad_released``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.backbone import Backbone, Encoded
from bench.plan.forecast import Forecast
from tests.reference.adatad_released import Released, ReleasedBackbone, forecast_adapters

SELECTING = (4, 8, 12, 16)
KEPT = 0.6


class SparseAdapter(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        inner = width // 4
        self.down_proj, self.up_proj = nn.Linear(width, inner), nn.Linear(inner, width)
        self.spatial = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.query = nn.Parameter(torch.zeros(1, 1, inner))
        self.gamma = nn.Parameter(torch.ones(1))

    def forward(self, tokens: Tensor, places: Tensor, side: int) -> Tensor:
        """Return (S*t, k, D) of the same; ``places`` (S*t, k) are the cells of the kept tokens."""
        hidden = F.gelu(self.down_proj(tokens))
        index = places[..., None].expand_as(hidden)
        grid = hidden.new_zeros(len(hidden), side * side, hidden.shape[2]).scatter(1, index, hidden)
        mixed = self.spatial(grid.transpose(1, 2).unflatten(2, (side, side))).flatten(2).transpose(1, 2)
        query = self.query.to(hidden.dtype).expand(len(hidden), -1, -1)
        summary = F.scaled_dot_product_attention(query, hidden, hidden)
        hidden = hidden + mixed.gather(1, index) + summary
        return self.up_proj(hidden) * self.gamma + tokens


class SparseBackbone(ReleasedBackbone):
    def __init__(self, inner: Backbone) -> None:
        super().__init__(inner)
        self.adapters = nn.ModuleList(SparseAdapter(inner.geometry.width) for _ in self.inner.blocks)

    def encode(self, clips: Tensor, window_clips: int = 1) -> Encoded:
        """Return the mean of the kept tokens of each step, (N, t, D)."""
        embedded = self.inner.patch_embed(clips)
        grid = tuple(embedded.shape[1:4])
        tokens = embedded.flatten(1, 3) + self.inner._positions(grid, embedded.device)
        steps, cells = grid[0], grid[1] * grid[2]
        places = torch.arange(cells, device=tokens.device).expand(len(tokens) * steps, -1)
        for index in range(len(self.adapters)):
            tokens = self.run(index, tokens, (steps, places, grid[1]))
            if index + 1 in SELECTING:
                tokens, places = select(tokens, places, steps)
        return (tokens.unflatten(1, (steps, -1)).mean(dim=2),)

    def block(self, index: int, tokens: Tensor, grid: Sequence[Any]) -> Tensor:
        block, (steps, places, side) = self.inner.blocks[index], grid
        tokens = tokens + self.dropped(block.attn(block.norm1(tokens)), block.keep)
        of_steps = tokens.unflatten(1, (steps, -1)).flatten(0, 1)
        tokens = self.adapters[index](of_steps, places, side).unflatten(0, (-1, steps)).flatten(1, 2)
        return tokens + self.dropped(block.mlp(block.norm2(tokens)), block.keep)


def select(tokens: Tensor, places: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return the tokens (N, t*k', D) with the largest norms of each step, and their cells."""
    of_steps = tokens.unflatten(1, (steps, -1)).flatten(0, 1)
    with torch.no_grad():
        best = of_steps.norm(dim=2).topk(math.ceil(KEPT * of_steps.shape[1]), dim=1).indices
    kept = of_steps.gather(1, best[..., None].expand(-1, -1, of_steps.shape[2]))
    return kept.unflatten(0, (-1, steps)).flatten(1, 2), places.gather(1, best)


@dataclasses.dataclass(frozen=True)
class SparseAdapters(Released):
    name: ClassVar[str] = "sv-tad"

    def adapt(self, backbone: Backbone) -> Backbone:
        return SparseBackbone(backbone)


def forecast_sv_tad(model: str, image_size: int) -> Forecast:
    """Return the forecast of a training step. Changes the process: use a new one."""
    return forecast_adapters(SparseAdapters(), model, image_size)
