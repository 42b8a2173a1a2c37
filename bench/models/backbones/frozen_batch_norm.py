"""Batch normalisation by stored statistics, for convolutional backbones.

A detector's batch has few videos, and clips of one video are similar: batch statistics would be inaccurate
and would differ between strategies, which train on batches of different shape. Therefore, as is usual for
this task, the stored statistics are always used, in training too, and never change; scale and shift are
parameters that a strategy may train.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StoredBatchNorm(nn.Module):
    """``torch.nn.BatchNorm*`` in evaluation mode, with the same parameter names and no counter."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        channels: int,
        eps: float = 1e-5,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype))
        self.register_buffer("running_mean", torch.zeros(channels, device=device, dtype=dtype))
        self.register_buffer("running_var", torch.ones(channels, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return x, with any number of axes, normalised per channel (the second axis)."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )
