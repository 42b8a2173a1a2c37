"""Ladder side-tuning as modules: a narrow network beside a frozen backbone, on pooled taps.

Shape legend: B windows, T steps of a window, D channels of the output, C channels of the ladder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.backbone import Backbone, Encoded, WrappedBackbone

TEMPORAL_KERNEL = 3
"""Steps of a rung's depth-wise convolution."""


class LadderBlock(nn.Module):
    """A residual block on (B, T, C): norm, depth-wise convolution in time, point-wise MLP."""

    def __init__(self, width: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = max(1, round(width * mlp_ratio))
        self.norm = nn.LayerNorm(width)
        self.dwconv = nn.Conv1d(width, width, TEMPORAL_KERNEL, padding=TEMPORAL_KERNEL // 2, groups=width)
        self.expand = nn.Linear(width, hidden)
        self.reduce = nn.Linear(hidden, width)

    def forward(self, state: Tensor, mask: Tensor) -> Tensor:
        """Return (B, T, C); ``mask`` is (B, T) bool, and steps outside it are zero in the convolution."""
        normed = self.norm(state)
        normed = normed * mask[..., None].to(normed.dtype)
        mixed = self.dwconv(normed.transpose(1, 2)).transpose(1, 2)
        changed: Tensor = self.reduce(F.gelu(self.expand(mixed)))
        return state + changed


class Rung(nn.Module):
    """One step of the ladder: takes in a tapped layer through a gate, then applies a block.

    h_i = block(mu f' + (1 - mu) h_(i-1)), f' = down(f_i), mu = sigmoid(alpha / temperature). The first rung
    has no gate: h_1 = block(f').
    """

    def __init__(self, tap_width: int, width: int, mlp_ratio: float, temperature: float | None) -> None:
        """Make a rung for a tapped layer of ``tap_width`` channels; no temperature means no gate."""
        super().__init__()
        self.down = nn.Linear(tap_width, width)
        self.block = LadderBlock(width, mlp_ratio)
        self.temperature = temperature
        if temperature is not None:
            self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, state: Tensor | None, feature: Tensor, mask: Tensor) -> Tensor:
        """Return h_i (B, T, C) of h_(i-1), None for the first rung, and the tapped feature (B, T, D_i)."""
        taken: Tensor = self.down(feature)
        if state is not None and self.temperature is not None:
            gate = torch.sigmoid(self.alpha / self.temperature).to(taken.dtype)
            taken = gate * taken + (1 - gate) * state
        stepped: Tensor = self.block(taken, mask)
        return stepped


class LadderBackbone(WrappedBackbone):
    """A frozen backbone with a ladder beside it, whose output is added to the last feature."""

    def __init__(
        self, inner: Backbone, taps: Sequence[int], width: int, mlp_ratio: float, temperature: float
    ) -> None:
        super().__init__(inner)
        self.taps = tuple(taps)
        widths = inner.geometry.layer_widths
        self.rungs = nn.ModuleList(
            Rung(widths[tap], width, mlp_ratio, temperature if number else None)
            for number, tap in enumerate(self.taps)
        )
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, inner.geometry.width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def upstream(self) -> nn.Module:
        return self.inner

    def encode(self, clips: Tensor, window_clips: int = 1) -> Encoded:
        """Return the spatial mean (N, t, D_i) of every tap and, at the end, of the last layer.

        No graph is recorded. Where the last layer is tapped, its mean is there once.
        """
        return tuple(x.mean(dim=(2, 3)) for x in self.tapped_layers(clips, self.taps, window_clips))

    def fuse(self, encoded: Encoded, mask: Tensor) -> Tensor:
        """Return features (B, D, T) from encodings (B, S, ...) and the mask (B, T) of valid steps."""
        features = [part.flatten(1, 2) for part in encoded]
        state: Tensor | None = None
        for rung, feature in zip(self.rungs, features, strict=False):
            state = self.checkpointed(rung, state, feature, mask)
        fused: Tensor = features[-1] + self.up(self.norm(state))
        return fused.transpose(1, 2)
