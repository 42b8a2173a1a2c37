"""What PyTorch 1.8 kept for the backward pass where today's PyTorch keeps something else.

Source: ``tools/autograd/derivatives.yaml`` of early 2021 (``hardtanh_`` and ``_softmax``). Today the in-place
ReLU6 copies its input, and the softmax keeps its result alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _ReLU6(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        torch.ops.aten.hardtanh_(x, 0.0, 6.0)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradients[0], result, 0.0, 6.0)


class OldReLU6(nn.Module):
    """In place, keeping its result and no copy."""

    def forward(self, x: Tensor) -> Tensor:
        return _ReLU6.apply(x)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        weights = torch.ops.aten._softmax(x, -1, False)
        ctx.save_for_backward(x, weights)
        return weights

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x, weights = ctx.saved_tensors
        return torch.ops.aten._softmax_backward_data(gradients[0], weights, -1, x.dtype)


def old_softmax(x: Tensor) -> Tensor:
    """Return the softmax over the last axis, keeping input and result."""
    return _Softmax.apply(x)


def today_softmax(x: Tensor) -> Tensor:
    return x.softmax(dim=-1)
