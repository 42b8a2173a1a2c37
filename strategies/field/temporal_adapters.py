"""AdaTAD's adapters as modules: inserted after layers, or beside a frozen backbone.

Shape legend: N clips, t steps of a clip, h w cells, D channels, S clips of a window, B windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.backbone import Backbone, Encoded, WrappedBackbone


class TemporalAdapter(nn.Module):
    """The temporal-informative adapter (TIA; AdaTAD, section 3.3): a bottleneck that mixes steps in time.

    With x the tokens: z = GELU(down x); change = gamma up(z + conv(dwconv(z))). ``dwconv`` is a depth-wise
    convolution over all steps of a window at each cell, zero beyond the window, and ``conv`` is point-wise.
    Names, widths and initial values are those of ``Adapter`` in OpenTAD's ``vit_adapter.py``: ``up_proj`` is
    zero and ``gamma`` one at first.
    """

    def __init__(self, width: int, ratio: float, kernel: int = 3, outputs: int | None = None) -> None:
        """Make an adapter of ``width`` channels; ``outputs`` are the channels of its change (None: width)."""
        super().__init__()
        hidden = max(1, int(width * ratio))
        self.down_proj = nn.Linear(width, hidden)
        self.dwconv = nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden)
        self.conv = nn.Conv1d(hidden, hidden, 1)
        self.up_proj = nn.Linear(hidden, outputs or width)
        self.gamma = nn.Parameter(torch.ones(1))
        # The source truncates the normal of 0.02 at 2, a hundred deviations, which has no effect.
        nn.init.normal_(self.down_proj.weight, std=0.02)
        nn.init.normal_(self.dwconv.weight, std=math.sqrt(2 / kernel))
        nn.init.normal_(self.conv.weight, std=math.sqrt(2 / hidden))
        nn.init.zeros_(self.up_proj.weight)
        for layer in (self.down_proj, self.dwconv, self.conv, self.up_proj):
            assert isinstance(layer.bias, Tensor)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, window_clips: int) -> Tensor:
        """Return tokens (N, t, h, w, D) plus their change: AdaTAD's form inside a backbone."""
        return tokens + self.change(tokens, window_clips)

    def change(self, tokens: Tensor, window_clips: int) -> Tensor:
        """Return (N, t, h, w, outputs), the change of tokens (N, t, h, w, D): the form beside a backbone."""
        return self._expanded(F.gelu(self.down_proj(tokens)), window_clips)

    def mean_change(self, tokens: Tensor, window_clips: int) -> Tensor:
        """Return (N, t, outputs), the mean of ``change`` over the cells.

        After the GELU every operation is affine and the same at each cell, so that the mean may be taken
        there: the result is equal but for rounding, and no wide activation is kept.
        """
        pooled = F.gelu(self.down_proj(tokens)).mean(dim=(2, 3), keepdim=True)
        return self._expanded(pooled, window_clips).flatten(2)

    def _expanded(self, hidden: Tensor, window_clips: int) -> Tensor:
        windows = hidden.unflatten(0, (-1, window_clips)).flatten(1, 2)
        batch, _, height, width, _ = windows.shape
        series = windows.permute(0, 2, 3, 4, 1).flatten(0, 2)
        mixed = self.conv(self.dwconv(series)).unflatten(0, (batch, height, width))
        hidden = hidden + mixed.permute(0, 4, 1, 2, 3).reshape(hidden.shape)
        expanded: Tensor = self.up_proj(hidden)
        return expanded * self.gamma.to(expanded.dtype)  # cast as autocast casts the weights


class AdaptersBesideBackbone(WrappedBackbone):
    """A frozen backbone with temporal-informative adapters beside it: AdaTAD's parallel form.

    Feature = mean over cells of (last + sum over taps i of change_i(f_i)).
    """

    def __init__(self, inner: Backbone, taps: Sequence[int], ratio: float, kernel: int) -> None:
        super().__init__(inner)
        self.taps = tuple(taps)
        widths, output = inner.geometry.layer_widths, inner.geometry.width
        self.adapters = nn.ModuleList(
            TemporalAdapter(widths[tap], ratio, kernel, output) for tap in self.taps
        )

    def upstream(self) -> nn.Module:
        return self.inner

    def encode(self, clips: Tensor, window_clips: int = 1) -> Encoded:
        """Return the last feature's spatial mean (N, t, D), then every tap's tokens (N, t, h_i, w_i, D_i).

        No graph is recorded.
        """
        layers = self.tapped_layers(clips, self.taps, window_clips)
        return (layers[-1].mean(dim=(2, 3)), *layers[: len(self.taps)])

    def fuse(self, encoded: Encoded, mask: Tensor) -> Tensor:
        """Return features (B, D, S*t) from encodings (B, S, ...); the mask is not used, as in the source."""
        last, *taps = encoded
        fused = last.flatten(0, 1)
        for adapter, tokens in zip(self.adapters, taps, strict=True):
            assert isinstance(adapter, TemporalAdapter)
            change = self.checkpointed(adapter.mean_change, tokens.flatten(0, 1), tokens.shape[1])
            fused = fused + change
        features: Tensor = fused.reshape(last.shape).flatten(1, 2).transpose(1, 2)
        return features
