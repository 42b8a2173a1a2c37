"""The masked one-dimensional layers of ActionFormer (Zhang et al., ECCV 2022, section 3).

Parameter names follow the released code. Sequences are channels first, (B, C, T); masks are (B, T) bool, true
where a step is valid. Every layer returns zeros where the mask is false, and no operation depends on data, so
the layers can be traced.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.cpu_kernels import (
    depthwise_convolutions,
    linear,
    masked_convolution,
    uses_cpu_kernels,
)
from bench.models.random_state import uniform

WHOLE_BAND = 32
"""On a CPU, sequences of at most so many times the reach of local attention are not split into chunks."""


class MaskedConv1D(nn.Module):
    """A convolution that zeroes masked steps and downsamples the mask; T is a multiple of the stride."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv1d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=bias
        )
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x_BCT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, C', T / stride) and its mask: every stride-th entry of ``mask_BT``."""
        mask_BT = mask_BT[:, :: self.stride]
        conv = self.conv
        if conv.groups == self.stride == 1 and conv.kernel_size[0] % 2 and uses_cpu_kernels(x_BCT):
            keep = mask_BT[..., None].to(x_BCT.dtype)
            found = masked_convolution(x_BCT.transpose(1, 2), conv.weight, conv.bias, keep)
            return found.transpose(1, 2), mask_BT
        output = conv(x_BCT)
        return output * mask_BT[:, None].to(output.dtype), mask_BT


class PointwiseConv1D(nn.Conv1d):
    """A convolution with a kernel of one step."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Return (B, C', T)."""
        if not uses_cpu_kernels(x_BCT):
            return super().forward(x_BCT)
        return linear(x_BCT.transpose(1, 2), self.weight[:, :, 0], self.bias).transpose(1, 2)


class LayerNorm(nn.Module):
    """Normalisation over the channels of (B, C, T), with weight and bias (1, C, 1)."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(1, channels, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Return (B, C, T)."""
        if uses_cpu_kernels(x_BCT):
            weight, bias = self.weight.flatten(), self.bias.flatten()
            return F.layer_norm(x_BCT.transpose(1, 2), weight.shape, weight, bias, self.eps).transpose(1, 2)
        centred = x_BCT - x_BCT.mean(dim=1, keepdim=True)
        variance = centred.square().mean(dim=1, keepdim=True)
        output: Tensor = centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias
        return output


class AffineDropPath(nn.Module):
    """Stochastic depth after a scale per channel that starts at 1e-4 (Touvron et al., ICCV 2021)."""

    def __init__(self, channels: int, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.scale = nn.Parameter(torch.full((1, channels, 1), 1e-4))

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Return (B, C, T); in training whole samples are dropped and the others scaled up to compensate."""
        scaled = x_BCT * self.scale
        if not self.training or self.probability == 0:
            return scaled
        keep = 1 - self.probability
        draw = uniform(x_BCT.shape[0], 1, 1, dtype=scaled.dtype, device=scaled.device)
        return scaled / keep * (draw < keep).to(scaled.dtype)


def drop_channels(x_BCT: Tensor, probability: float) -> Tensor:
    """Return (B, C, T): channels of each sample are dropped, the others scaled up to compensate."""
    if probability == 0:
        return x_BCT
    draw = uniform(*x_BCT.shape[:2], 1, dtype=x_BCT.dtype, device=x_BCT.device)
    return x_BCT * (draw < 1 - probability).to(x_BCT.dtype) / (1 - probability)


class Scale(nn.Module):
    """A learned scalar factor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times the factor."""
        output: Tensor = x * self.scale
        return output


def global_attention(query: Tensor, key: Tensor, value: Tensor, valid_BT: Tensor) -> Tensor:
    """Return (B, h, T, d): every query attends to all valid keys."""
    # A sequence without a valid step attends to all steps: the caller's mask zeroes it, and NaN is avoided.
    allowed = valid_BT | ~valid_BT.any(dim=1, keepdim=True)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed[:, None, None, :])


def local_attention(
    query: Tensor, key: Tensor, value: Tensor, valid_BT: Tensor, reach: int, bias: Tensor | None = None
) -> Tensor:
    """Return (B, h, T, d): every query attends to valid keys at most ``reach`` steps away, and to itself.

    ``query``, ``key``, ``value`` are (B, h, T, d) with any T; ``bias`` is (h, 2 * reach + 1), added to the
    scores by relative position. Queries are split into chunks of ``reach`` steps, each of which attends to
    its own and the two neighbouring chunks of keys: memory and operations are linear in T, not quadratic.
    """
    batch, heads, steps, channels = query.shape
    if steps <= WHOLE_BAND * reach and uses_cpu_kernels(query):
        return _band_attention(query, key, value, valid_BT, reach, bias)
    chunks = math.ceil(steps / reach)
    fill = chunks * reach - steps
    query = F.pad(query, (0, 0, 0, fill)).reshape(batch, heads, chunks, reach, channels)
    key, value = (
        F.pad(part, (0, 0, reach, reach + fill)).unfold(2, 3 * reach, reach).transpose(3, 4)
        for part in (key, value)
    )
    valid = F.pad(valid_BT, (reach, reach + fill)).unfold(1, 3 * reach, reach)
    row = torch.arange(reach, device=query.device)[:, None]
    column = torch.arange(3 * reach, device=query.device)[None, :]
    distance = column - row - reach
    # Each query attends to itself even where it is masked: a row without any key would be NaN.
    allowed = (distance.abs() <= reach) & valid[:, :, None, :] | (distance == 0)
    allowed = allowed[:, None]
    if bias is not None:
        relative = bias[:, (distance + reach).clamp(0, 2 * reach)].to(query.dtype)
        allowed = relative[None, :, None].masked_fill(~allowed, -math.inf)
        allowed = allowed.transpose(1, 2).flatten(0, 1)
    else:
        allowed = allowed.transpose(1, 2).flatten(0, 1)
    query, key, value = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
    attended = attended.reshape(batch, chunks, heads, reach, channels).transpose(1, 2)
    return attended.reshape(batch, heads, chunks * reach, channels)[:, :, :steps]


def _band_attention(
    query: Tensor, key: Tensor, value: Tensor, valid_BT: Tensor, reach: int, bias: Tensor | None
) -> Tensor:
    """Return what ``local_attention`` does, with scores of all pairs of steps: fewer, larger operations."""
    places = torch.arange(query.shape[2], device=query.device)
    distance = places[None, :] - places[:, None]
    allowed = (distance.abs() <= reach) & valid_BT[:, None, :] | (distance == 0)
    allowed = allowed[:, None]
    if bias is not None:
        relative = bias[:, (distance + reach).clamp(0, 2 * reach)].to(query.dtype)
        allowed = relative[None].masked_fill(~allowed, -math.inf)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)


class MaskedAttention(nn.Module):
    """Multi-head attention with a depth-wise convolution of queries, keys and values.

    ``window`` is the number of neighbouring steps, itself included, that a step attends to; 1 or less: all.
    """

    def __init__(
        self, channels: int, heads: int, stride: int, window: int, relative: bool, dropout: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.reach = window // 2 if window > 1 else 0
        kernel = stride + 1 if stride > 1 else 3
        self.query_conv = MaskedConv1D(channels, channels, kernel, stride, channels, bias=False)
        self.query_norm = LayerNorm(channels)
        self.key_conv = MaskedConv1D(channels, channels, kernel, stride, channels, bias=False)
        self.key_norm = LayerNorm(channels)
        self.value_conv = MaskedConv1D(channels, channels, kernel, stride, channels, bias=False)
        self.value_norm = LayerNorm(channels)
        self.key = PointwiseConv1D(channels, channels)
        self.query = PointwiseConv1D(channels, channels)
        self.value = PointwiseConv1D(channels, channels)
        self.proj_drop = nn.Dropout(dropout)
        self.proj = PointwiseConv1D(channels, channels)
        if self.reach and relative:
            deviation = math.sqrt(2.0 / channels)
            self.rel_pe = nn.Parameter(torch.randn(1, 1, heads, 2 * self.reach + 1) * deviation)
        else:
            self.register_parameter("rel_pe", None)

    def forward(self, x_BCT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, C, T / stride) and its mask."""
        query, key, value, out_mask = self._convolved(x_BCT, mask_BT)
        query = self._split(self.query(self.query_norm(query)))
        key = self._split(self.key(self.key_norm(key)))
        value = self._split(self.value(self.value_norm(value)))
        value = value * out_mask[:, None, :, None].to(value.dtype)
        if self.reach:
            bias = None if self.rel_pe is None else self.rel_pe[0, 0]
            attended = local_attention(query, key, value, out_mask, self.reach, bias)
        else:
            attended = global_attention(query, key, value, out_mask)
        merged = attended.transpose(2, 3).flatten(1, 2)
        output = self.proj_drop(self.proj(merged))
        return output * out_mask[:, None].to(output.dtype), out_mask

    def _convolved(self, x_BCT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        layers = (self.query_conv, self.key_conv, self.value_conv)
        stride, kernel = self.query_conv.stride, self.query_conv.conv.kernel_size[0]
        if kernel % 2 and uses_cpu_kernels(x_BCT):
            mask_BT = mask_BT[:, ::stride]
            keep = mask_BT[..., None].to(x_BCT.dtype)
            weights = tuple(layer.conv.weight for layer in layers)
            found = depthwise_convolutions(x_BCT.transpose(1, 2), weights, stride, keep)
            query, key, value = (each.transpose(1, 2) for each in found)
            return query, key, value, mask_BT
        (query, mask), (key, _), (value, _) = (layer(x_BCT, mask_BT) for layer in layers)
        return query, key, value, mask

    def _split(self, x_BCT: Tensor) -> Tensor:
        batch, channels, steps = x_BCT.shape
        return x_BCT.reshape(batch, self.heads, channels // self.heads, steps).transpose(2, 3)


class TransformerBlock(nn.Module):
    """A pre-norm block; with a stride, max pooling downsamples the skip connection."""

    def __init__(
        self,
        channels: int,
        heads: int,
        stride: int = 1,
        window: int = -1,
        relative: bool = False,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.ln1 = LayerNorm(channels)
        self.ln2 = LayerNorm(channels)
        self.attn = MaskedAttention(channels, heads, stride, window, relative, dropout)
        self.pool_skip = nn.MaxPool1d(stride + 1, stride, (stride + 1) // 2) if stride > 1 else nn.Identity()
        self.mlp = nn.Sequential(
            PointwiseConv1D(channels, 4 * channels),
            nn.GELU(),
            nn.Dropout(dropout),
            PointwiseConv1D(4 * channels, channels),
            nn.Dropout(dropout),
        )
        # Without drop path there is no scale either, as in the released checkpoints.
        self.drop_path_attn = AffineDropPath(channels, drop_path) if drop_path > 0 else nn.Identity()
        self.drop_path_mlp = AffineDropPath(channels, drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x_BCT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, C, T / stride) and its mask."""
        attended, out_mask = self.attn(self.ln1(x_BCT), mask_BT)
        keep = out_mask[:, None].to(x_BCT.dtype)
        x_BCT = self.pool_skip(x_BCT) * keep + self.drop_path_attn(attended)
        x_BCT = x_BCT + self.drop_path_mlp(self.mlp(self.ln2(x_BCT)) * keep)
        return x_BCT, out_mask
