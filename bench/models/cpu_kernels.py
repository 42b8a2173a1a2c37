"""Layers as a CPU computes them fastest, with the results and gradients of the ordinary ones up to rounding.

At the sizes of small heads, PyTorch's convolutions spend most of their time on set-up, and MKL's products do
not use all of some processors' vector units; oneDNN's do. Sequences are (B, T, C) here. Only float32 without
autocast is computed so. A step that is traced for another device uses that device's ordinary layers
(``kernels_of``).
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

_device: contextvars.ContextVar[str | None] = contextvars.ContextVar("kernels", default=None)


@contextlib.contextmanager
def kernels_of(device_type: str | None) -> Iterator[None]:
    """Choose layers as for tensors on ``device_type``, whatever device they are on; None: by their device."""
    token = _device.set(device_type)
    try:
        yield
    finally:
        _device.reset(token)


def uses_cpu_kernels(x: Tensor) -> bool:
    """Return whether the layers of this module are used for ``x``."""
    return (
        x.dtype == torch.float32
        and (_device.get() or x.device.type) == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return (n, O): rows (n, I) times the transpose of weight (O, I), by oneDNN, without a graph."""
    # oneDNN refuses the strides that vectors may have.
    vector = 1 in (*rows.shape, *weight.shape)
    if vector or isinstance(rows, FakeTensor) or not torch.backends.mkldnn.is_available():
        return F.linear(rows, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        ctx.save_for_backward(rows, weight)
        ctx.shape, ctx.biased = x.shape, bias is not None
        return _product(rows, weight, bias).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, weight.shape[0]).contiguous()
        wanted = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()).view(ctx.shape) if wanted[0] else None,
            _product(gradient.t(), rows.t()) if wanted[1] else None,
            gradient.sum(0) if wanted[2] else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return (..., O) of (..., I), as ``torch.nn.functional.linear``."""
    if not uses_cpu_kernels(x):
        return F.linear(x, weight, bias)
    result: Tensor = _Linear.apply(x, weight, bias)
    return result


def apply_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """Return ``layer(x)``; a plain linear layer without hooks is computed by ``linear``."""
    if type(layer) is nn.Linear and not (layer._forward_hooks or layer._forward_pre_hooks):
        return linear(x, layer.weight, layer.bias)
    result: Tensor = layer(x)
    return result


def _taps(padded: Tensor, steps: int, stride: int, taps: int) -> Tensor:
    """Return a view (B, steps, taps, C) of a contiguous (B, T, C): the inputs of each output step."""
    batch, length, channels = padded.shape
    strides = (length * channels, stride * channels, channels, 1)
    return padded.as_strided((batch, steps, taps, channels), strides)


def _columns(padded: Tensor, steps: int, taps: int) -> Tensor:
    """Return (B * steps, taps * C): a row of inputs for each output step. A copy, as rows overlap."""
    return _taps(padded, steps, 1, taps).reshape(-1, taps * padded.shape[2]).contiguous()


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, inside: Tensor | None, keep: Tensor
    ) -> Tensor:
        outputs, _, taps = weight.shape
        padded = F.pad(x, (0, 0, taps // 2, taps // 2))
        if inside is not None:
            padded.mul_(inside)
        columns = _columns(padded, x.shape[1], taps)
        matrix = weight.transpose(1, 2).reshape(outputs, -1)
        ctx.save_for_backward(padded, weight, keep, *(() if inside is None else (inside,)))
        return _product(columns, matrix, bias).view(*x.shape[:2], outputs).mul_(keep)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        padded, weight, keep, *inside = ctx.saved_tensors
        outputs, channels, taps = weight.shape
        batch, length = padded.shape[0], keep.shape[1]
        rows = (gradients[0] * keep).reshape(-1, outputs)
        wanted = ctx.needs_input_grad
        of_input = of_weight = of_bias = None
        if wanted[1]:
            columns = _columns(padded, length, taps)
            of_weight = _product(rows.t(), columns.t()).view(outputs, taps, channels).transpose(1, 2)
            of_weight = of_weight.contiguous()
            del columns
        if wanted[2]:
            of_bias = rows.sum(0)
        if wanted[0]:
            matrix = weight.transpose(1, 2).reshape(outputs, -1)
            parts = _product(rows, matrix.t()).view(batch, length, taps, channels)
            whole = torch.zeros_like(padded)
            for tap in range(taps):
                whole[:, tap : tap + length].add_(parts[:, :, tap])
            if inside:
                whole.mul_(inside[0])
            of_input = whole[:, taps // 2 : taps // 2 + length]
        return of_input, of_weight, of_bias, None, None


def masked_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, keep: Tensor, inside: Tensor | None = None
) -> Tensor:
    """Return (B, T, O) of (B, T, I): a convolution of stride 1 with zero padding, times ``keep`` (B, T, 1).

    ``weight`` is (O, I, k) with odd k. The input is multiplied by ``inside``, (1, T + 2 * (k // 2), 1), which
    includes the padding.
    """
    result: Tensor = _Convolution.apply(x, weight, bias, inside, keep)
    return result


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int, keep: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        taps = weights[0].shape[2]
        padded = F.pad(x, (0, 0, taps // 2, taps // 2))
        ctx.save_for_backward(padded, keep, *weights)
        ctx.stride = stride
        parts = [_tap(padded, tap, keep.shape[1], stride) for tap in range(taps)]
        results = []
        for weight in weights:
            rows = weight[:, 0].t().contiguous()
            result = parts[0] * rows[0]
            for part, row in zip(parts[1:], rows[1:], strict=True):
                result.addcmul_(part, row)
            results.append(result.mul_(keep))
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        padded, keep, *weights = ctx.saved_tensors
        taps, stride, steps = weights[0].shape[2], ctx.stride, keep.shape[1]
        inputs = _taps(padded, steps, stride, taps)
        whole = torch.zeros_like(padded) if ctx.needs_input_grad[0] else None
        found: list[Tensor | None] = []
        for weight, gradient, wanted in zip(weights, gradients, ctx.needs_input_grad[3:], strict=True):
            masked = gradient * keep
            found.append(_of_taps(inputs, masked) if wanted else None)
            if whole is not None:
                for tap, row in enumerate(weight[:, 0].t().contiguous()):
                    _tap(whole, tap, steps, stride).addcmul_(masked, row)
        length = padded.shape[1] - taps // 2 * 2
        of_input = None if whole is None else whole[:, taps // 2 : taps // 2 + length]
        return of_input, None, None, *found


def _tap(padded: Tensor, tap: int, steps: int, stride: int) -> Tensor:
    """Return a view (B, steps, C): the inputs that one tap of the kernel sees."""
    return padded[:, tap : tap + stride * (steps - 1) + 1 : stride]


def _of_taps(inputs: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient (C, 1, k) of a depth-wise kernel from its inputs (B, T, k, C)."""
    return (inputs * gradient[:, :, None]).sum((0, 1)).t()[:, None].contiguous()


def depthwise_convolutions(
    x: Tensor, weights: tuple[Tensor, ...], stride: int, keep: Tensor
) -> tuple[Tensor, ...]:
    """Return for each of ``weights`` (C, 1, k) its depth-wise convolution of (B, T, C), times ``keep``.

    ``keep`` is (B, T / stride, 1), k is odd; so are the results, (B, T / stride, C).
    """
    result: tuple[Tensor, ...] = _Depthwise.apply(x, stride, keep, *weights)
    return result
