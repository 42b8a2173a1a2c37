"""The blocks of the controls as modules, and a backbone that applies one to its last feature."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.backbone import Backbone, Encoded, WrappedBackbone
from strategies.losa import LoSA

TEMPORAL_KERNEL = 3
"""Steps of a temporal convolution."""


class FeatureBlock(nn.Module):
    """A residual block on features: norm, convolution to ``hidden`` channels, GELU, convolution back.

    The last convolution is zero at first, so that training starts from the feature. A kernel of one step
    makes it an MLP.
    """

    def __init__(self, width: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.down = nn.Conv1d(width, hidden, kernel, padding=kernel // 2)
        self.up = nn.Conv1d(hidden, width, kernel, padding=kernel // 2)
        nn.init.zeros_(self.up.weight)
        assert self.up.bias is not None
        nn.init.zeros_(self.up.bias)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return (B, D, T) from features (B, D, T); ``mask`` is (B, T) bool, false where padded."""
        valid = mask[:, None].to(features.dtype)
        hidden = self.norm(features.transpose(1, 2)).transpose(1, 2) * valid
        hidden = F.gelu(self.down(hidden)) * valid
        changed: Tensor = self.up(hidden)
        return features + changed


def adapter_parameters(backbone: Backbone) -> int:
    """Return the number of parameters of LoSA's adapters, with LoSA's defaults, on ``backbone``."""
    with torch.device("meta"):
        adapted = LoSA().adapt(backbone)
    own = {id(parameter) for parameter in backbone.parameters()}
    return sum(parameter.numel() for parameter in adapted.parameters() if id(parameter) not in own)


def hidden_width(width: int, kernel: int, parameters: int) -> int:
    """Return the hidden channels with which a block has about ``parameters`` parameters, at least 1.

    The norm has 2 D, the convolutions 2 k D h + h + D.
    """
    return max(1, round((parameters - 3 * width) / (2 * kernel * width + 1)))


class FeatureBlockBackbone(WrappedBackbone):
    """A frozen backbone with a trained block on its last feature."""

    def __init__(self, inner: Backbone, block: str, parameters: int | None) -> None:
        super().__init__(inner)
        kernel = TEMPORAL_KERNEL if block == "temporal" else 1
        wanted = adapter_parameters(inner) if parameters is None else parameters
        width = inner.geometry.width
        self.block = FeatureBlock(width, hidden_width(width, kernel, wanted), kernel)

    def upstream(self) -> nn.Module:
        return self.inner

    def encode(self, clips: Tensor, window_clips: int = 1) -> Encoded:
        """Return the inner backbone's encodings, without a graph."""
        with torch.no_grad():
            return self.inner.encode(clips, window_clips)

    def fuse(self, encoded: Encoded, mask: Tensor) -> Tensor:
        return self.checkpointed(self.block, self.inner.fuse(encoded, mask), mask)
