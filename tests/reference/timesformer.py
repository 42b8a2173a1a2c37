"""TimeSformer (arXiv 2102.05095) as in MMAction2 0.24.1, written anew to trace its training.

Read from ``mmaction/models/backbones/timesformer.py`` and ``common/transformer.py`` on the branch ``0.x``; no
line is copied. Attention is that of ``torch.nn.MultiheadAttention`` before it had fused kernels (PyTorch 1.9
and before): the softmax's output is kept, and the weights' mean over heads is computed and dropped.

Shape legend: B videos, T frames, P patches of a frame, D channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.reference.old_formulas import today_softmax

Softmax = Callable[[Tensor], Tensor]

FRAMES, PATCHES, WIDTH, HEADS, DEPTH, CLASSES = 8, 14 * 14, 768, 12, 12, 400


class ExplicitAttention(nn.Module):
    def __init__(self, softmax: Softmax) -> None:
        super().__init__()
        self.softmax = softmax
        self.projection, self.output = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (L, B, D) of (L, B, D), which need not be contiguous."""
        length, batch, _ = tokens.shape
        parts = self.projection(tokens).chunk(3, dim=-1)
        query, key, value = (
            part.contiguous().view(length, batch * HEADS, -1).transpose(0, 1) for part in parts
        )
        del parts
        query = query / (WIDTH // HEADS) ** 0.5
        weights = self.softmax(torch.bmm(query, key.transpose(1, 2)))
        mixed = torch.bmm(weights, value).transpose(0, 1).contiguous().view(length, batch, WIDTH)
        result = self.output(mixed)
        weights.view(batch, HEADS, length, length).sum(dim=1).div(HEADS)
        return result


class DropPath(nn.Module):
    def __init__(self, probability: float) -> None:
        super().__init__()
        self.keep = 1 - probability

    def forward(self, x: Tensor) -> Tensor:
        if self.keep == 1:
            return x
        kept = self.keep + torch.rand(x.shape[0], *(1,) * (x.dim() - 1))
        return x.div(self.keep) * kept.floor_()


class FeedForward(nn.Module):
    def __init__(self, probability: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.layers = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.drop_path = DropPath(probability)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.drop_path(self.layers(self.norm(tokens)))


class JointBlock(nn.Module):
    """Attention over all tokens of a sequence: those of a video, or of a frame."""

    def __init__(self, probability: float, softmax: Softmax) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(WIDTH, eps=1e-6), ExplicitAttention(softmax)
        self.drop_path, self.feed_forward = DropPath(probability), FeedForward(probability)

    def forward(self, tokens: Tensor) -> Tensor:
        attended = self.attention(self.norm(tokens).transpose(0, 1)).transpose(0, 1)
        return self.feed_forward(tokens + self.drop_path(attended))


class DividedBlock(nn.Module):
    """Attention over the frames at each patch, then over the patches of each frame."""

    def __init__(self, probability: float, softmax: Softmax) -> None:
        super().__init__()
        self.temporal_norm, self.spatial_norm = (nn.LayerNorm(WIDTH, eps=1e-6) for _ in range(2))
        self.temporal, self.spatial = ExplicitAttention(softmax), ExplicitAttention(softmax)
        self.temporal_output = nn.Linear(WIDTH, WIDTH)
        self.drop_path, self.feed_forward = DropPath(probability), FeedForward(probability)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, 1 + P*T, D) of the same, patch by patch."""
        return self.feed_forward(self.over_patches(self.over_frames(tokens)))

    def over_frames(self, tokens: Tensor) -> Tensor:
        batch = tokens.shape[0]
        first, rest = tokens[:, :1], tokens[:, 1:]
        series = self.temporal_norm(rest.reshape(batch * PATCHES, FRAMES, WIDTH)).permute(1, 0, 2)
        attended = self.drop_path(self.temporal(series).permute(1, 0, 2).contiguous())
        attended = self.temporal_output(attended).reshape(batch, PATCHES * FRAMES, WIDTH)
        return torch.cat((first, rest + attended), 1)

    def over_patches(self, tokens: Tensor) -> Tensor:
        batch = tokens.shape[0]
        first = tokens[:, :1].repeat(1, FRAMES, 1).reshape(batch * FRAMES, 1, WIDTH)
        frames = tokens[:, 1:].unflatten(1, (PATCHES, FRAMES)).transpose(1, 2).flatten(0, 1)
        joined = torch.cat((first, frames), 1)
        attended = self.spatial(self.spatial_norm(joined).permute(1, 0, 2)).permute(1, 0, 2)
        attended = self.drop_path(attended.contiguous())
        mean = attended[:, 0].reshape(batch, FRAMES, WIDTH).mean(1, keepdim=True)
        patches = attended[:, 1:].unflatten(0, (batch, FRAMES)).transpose(1, 2).flatten(1, 2)
        return tokens + torch.cat((mean, patches), 1)


class TimeSformer(nn.Module):
    """``attention`` is "divided", "joint" or "space"."""

    def __init__(self, attention: str, softmax: Softmax = today_softmax) -> None:
        super().__init__()
        self.attention = attention
        self.patches = nn.Conv2d(3, WIDTH, 16, 16)
        self.first = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.zeros(1, PATCHES + 1, WIDTH))
        if attention != "space":
            self.times = nn.Parameter(torch.zeros(1, FRAMES, WIDTH))
        block = DividedBlock if attention == "divided" else JointBlock
        rates = (0.1 * index / (DEPTH - 1) for index in range(DEPTH))
        self.blocks = nn.ModuleList(block(rate, softmax) for rate in rates)
        self.norm, self.classifier = nn.LayerNorm(WIDTH, eps=1e-6), nn.Linear(WIDTH, CLASSES)

    def forward(self, clips: Tensor) -> Tensor:
        """Return scores (B, classes) of (B, 3, T, 224, 224)."""
        batch = clips.shape[0]
        frames = clips.transpose(1, 2).reshape(batch * FRAMES, 3, *clips.shape[3:])
        tokens = self.patches(frames).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.first.expand(len(tokens), -1, -1), tokens), 1) + self.positions
        if self.attention != "space":
            tokens = self.over_time(tokens, batch)
        for block in self.blocks:
            tokens = block(tokens)
        if self.attention == "space":
            tokens = tokens.unflatten(0, (batch, FRAMES)).mean(1)
        return F.linear(self.norm(tokens)[:, 0], self.classifier.weight, self.classifier.bias)

    def over_time(self, tokens: Tensor, batch: int) -> Tensor:
        """Return (B, 1 + P*T, D), patch by patch, of the frames (B*T, 1 + P, D)."""
        first = tokens[:batch, :1]
        series = tokens[:, 1:].unflatten(0, (batch, FRAMES)).transpose(1, 2).flatten(0, 1)
        series = (series + self.times).unflatten(0, (batch, PATCHES)).flatten(1, 2)
        return torch.cat((first, series), 1)
