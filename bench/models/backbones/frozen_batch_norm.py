"""Batch normalisation by stored statistics, for convolutional backbones.

A detector's batch holds few videos, and clips of one video resemble each other: statistics taken over it
would be poor and would differ between strategies, which train on batches of different shape. So, as is usual
for this task, the stored statistics are used always, in training too, and never change; scale and shift are
parameters and train where a strategy says so.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StoredBatchNorm(nn.Module):
    """The affine map that ``torch.nn.BatchNorm*`` is in evaluation mode, with its names and no counter."""

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
        """Return x, normalised per channel (its second axis), of any number of axes."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )
