"""LoSA's side adapters as modules: adapters beside a frozen backbone, fused with its last feature."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.backbone import Backbone, Encoded, WrappedBackbone


@dataclasses.dataclass(frozen=True)
class SideAdapterConfig:
    """The fields of ``strategies.losa.LoSA`` that define the modules; documented there."""

    taps: tuple[int, ...]
    grid: int
    width: int | None
    heads: int
    short_range: bool
    long_range: bool
    gated: bool


def distance_bias(steps: int, heads: int, reach: float, device: torch.device) -> Tensor:
    """Return (heads, steps, steps): attention biases that decrease with the distance of two steps.

    Linear biases (Press et al., ICLR 2022, section 3) with a reach per head: the first head's weight falls to
    1/e at one step, the last's at ``reach`` steps, the others' at log-spaced distances between.
    """
    places = torch.arange(steps, device=device, dtype=torch.float32)
    exponents = torch.arange(heads, device=device, dtype=torch.float32) / max(1, heads - 1)
    return -(places[:, None] - places).abs() / reach ** exponents[:, None, None]


class CrossAttention(nn.Module):
    """Multi-head cross-attention with ``width`` channels."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)

    def forward(self, queries: Tensor, context: Tensor, bias: Tensor) -> Tensor:
        """Return (B, Q, width) from context (B, K, width); ``bias`` is added to scores (B, heads, Q, K)."""
        key, value = self.key_value(self.norm(context)).chunk(2, dim=-1)
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (self.query(queries), key, value)
        )
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)


class SideAdapter(nn.Module):
    """The short- and the long-range adapter of one tapped layer, with their gates."""

    def __init__(self, tap_width: int, output_width: int, config: SideAdapterConfig) -> None:
        super().__init__()
        width = config.width or config.heads * (max(32, output_width // 4) // config.heads)
        self.heads = config.heads
        self.depthwise = nn.Conv2d(tap_width, tap_width, 3, padding=1, groups=tap_width)
        self.pointwise = nn.Conv2d(tap_width, width, 1)
        self.query = nn.Linear(output_width, width)
        self.ranges = nn.ModuleDict()
        self.outputs = nn.ModuleDict()
        self.gates = nn.ParameterDict()
        for name, wanted in (("short", config.short_range), ("long", config.long_range)):
            if wanted:
                self.ranges[name] = CrossAttention(width, config.heads)
                self.outputs[name] = output = nn.Linear(width, output_width)
                if config.gated:
                    self.gates[name] = nn.Parameter(torch.zeros(output_width))
                else:
                    # Without a gate the output layer is initialised to zero, so that training still
                    # starts from the backbone's feature.
                    nn.init.zeros_(output.weight)
                    nn.init.zeros_(output.bias)

    def forward(self, cells: Tensor, last: Tensor, mask: Tensor) -> Tensor:
        """Return (B, S, t, D) to be added to ``last``, (B, S, t, D).

        ``cells`` is (B, S, t, h, w, D_i), the tapped tokens, normalised; ``mask`` (B, S*t) bool.
        """
        windows, clips, steps, height, width, channels = cells.shape
        images = cells.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        reduced = F.gelu(self.pointwise(self.depthwise(images)))
        reduced = reduced.flatten(2).transpose(1, 2).reshape(windows, clips, steps, height * width, -1)
        queries = self.query(last)
        total = torch.zeros_like(last)
        if "short" in self.ranges:
            context = reduced.reshape(windows * clips, steps * height * width, -1)
            bias = distance_bias(steps, self.heads, steps, last.device)
            bias = bias.repeat_interleave(height * width, dim=2)[None]
            attended = self.ranges["short"](queries.flatten(0, 1), context, bias)
            total = total + self._gated("short", attended.unflatten(0, (windows, clips)))
        if "long" in self.ranges:
            bias = distance_bias(clips * steps, self.heads, clips * steps, last.device)
            bias = bias.masked_fill(~mask[:, None, None, :], -math.inf)
            context = reduced.mean(dim=3).flatten(1, 2)
            attended = self.ranges["long"](queries.flatten(1, 2), context, bias)
            total = total + self._gated("long", attended.unflatten(1, (clips, steps)))
        return total

    def _gated(self, name: str, attended: Tensor) -> Tensor:
        output: Tensor = self.outputs[name](attended)
        return torch.tanh(self.gates[name]) * output if name in self.gates else output


class SideAdaptedBackbone(WrappedBackbone):
    """A frozen backbone with side adapters on some of its layers."""

    def __init__(self, inner: Backbone, config: SideAdapterConfig) -> None:
        super().__init__(inner)
        self.taps = config.taps
        self.grid = config.grid
        widths = inner.geometry.layer_widths
        output = inner.geometry.width
        self.adapters = nn.ModuleList(SideAdapter(widths[tap], output, config) for tap in self.taps)

    def upstream(self) -> nn.Module:
        return self.inner

    def encode(self, clips: Tensor, window_clips: int = 1) -> Encoded:
        """Return the last feature's spatial mean (N, t, D), then every tap's cells (N, t, g, g, D_i).

        No graph is recorded: no gradient flows through the backbone, at whatever depth it is tapped.
        """
        with torch.no_grad():
            layers = self.tapped_layers(clips, self.taps, window_clips)
            return (layers[-1].mean(dim=(2, 3)), *(self._pool(x) for x in layers[: len(self.taps)]))

    def _pool(self, tokens: Tensor) -> Tensor:
        """Return (N, t, g, g, D): tokens (N, t, h, w, D) pooled to g x g cells and normalised.

        The norm has no parameters: the convolution after it can scale and shift. Computed here, without a
        graph, the norm stores no activation, which would be one float32 tensor per tap.
        """
        clips, steps, height, width, channels = tokens.shape
        size = (min(height, self.grid), min(width, self.grid))
        if size != (height, width):
            images = tokens.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
            pooled = F.adaptive_avg_pool2d(images, size).permute(0, 2, 3, 1)
            tokens = pooled.reshape(clips, steps, *size, channels)
        return F.layer_norm(tokens, (channels,)).to(tokens.dtype)

    def learned(self) -> dict[str, Any]:
        """Return the gates' openings: by range, the tapped layers and the mean |tanh| of their gates."""
        opened: dict[str, list[list[float]]] = {}
        for tap, adapter in zip(self.taps, self.adapters, strict=True):
            assert isinstance(adapter, SideAdapter)
            for name, gate in adapter.gates.items():
                opened.setdefault(name, []).append([tap, round(float(gate.detach().tanh().abs().mean()), 5)])
        return {"gates": opened} if opened else {}

    def fuse(self, encoded: Encoded, mask: Tensor) -> Tensor:
        last, *taps = encoded
        fused = last
        for adapter, cells in zip(self.adapters, taps, strict=True):
            fused = fused + self.checkpointed(adapter, cells, last, mask)
        return fused.flatten(1, 2).transpose(1, 2)
