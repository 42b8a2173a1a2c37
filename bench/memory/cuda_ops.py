"""Differences between CUDA and the CPU, for steps traced on a CPU: casts, and scratch memory of kernels."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
LOW = (torch.float16, torch.bfloat16)

# Operations of this project's models that autocast runs in float32 on CUDA ("Autocast Op Reference" of
# PyTorch) and leaves unchanged, or casts to lower precision, on a CPU.
CAST_INPUTS = (
    *(aten.layer_norm.default, aten.group_norm.default, aten.binary_cross_entropy_with_logits.default),
    *(aten.exp.default, aten.log.default, aten.rsqrt.default, aten.reciprocal.default),
    *(aten.pow.Tensor_Scalar, aten.softplus.default, aten.l1_loss.default, aten.smooth_l1_loss.default),
    *(aten.mse_loss.default, aten.cosine_similarity.default),
)
CAST_RESULT = (
    *(aten.softmax.int, aten.log_softmax.int, aten.sum.default, aten.sum.dim_IntList),
    *(aten.cumsum.default, aten.prod.default),
)


def _raised(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in LOW else value


@functools.cache
def follow_cuda_autocast() -> torch.library.Library:
    """Make CPU autocast of this process cast to float32 where CUDA's does.

    The registration is valid as long as the caller keeps the returned library object. It cannot be undone.
    """
    library = torch.library.Library("aten", "IMPL")
    autocast_key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)

    def cast_inputs(operation: Any) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(autocast_key):
                return operation(*map(_raised, args), **{k: _raised(v) for k, v in kwargs.items()})

        return run

    def cast_result(operation: Any) -> Callable[..., Any]:
        def run(x: Tensor, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(autocast_key):
                if args and (args[-1] is None or isinstance(args[-1], torch.dtype)):
                    args, dtype = args[:-1], args[-1]
                if dtype is None and x.dtype in LOW:
                    dtype = torch.float32
                return operation(x, *args, dtype=dtype, **kwargs)

        return run

    for operations, wrapper in ((CAST_INPUTS, cast_inputs), (CAST_RESULT, cast_result)):
        for operation in operations:
            library.impl(operation, wrapper(operation), "AutocastCPU")
    return library


SMALL_WORKSPACE = 8320 * 2**10
LARGE_WORKSPACE = 32 * 2**20
"""PyTorch's cuBLAS workspaces before compute capability 9.0, and from there on (``CublasHandlePool.cpp``)."""


def workspace_bytes(capability: tuple[int, int] | None) -> int:
    """Return the size of a cuBLAS workspace of PyTorch in this process's environment.

    ``capability`` is the card's compute capability; None, for a card that is not known, gives the largest.
    ``CUBLAS_WORKSPACE_CONFIG`` (":KiB:count", several in a row) replaces the default, as in PyTorch.
    """
    pools = re.findall(r":(\d+):(\d+)", os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""))
    if pools:
        return sum(int(size) * 2**10 * int(count) for size, count in pools)
    return SMALL_WORKSPACE if capability is not None and capability < (9, 0) else LARGE_WORKSPACE


def kernel_scratch(operation: Any, args: tuple[Any, ...]) -> Iterable[int]:
    """Return the bytes of temporary memory that an operation's CUDA kernel allocates, beside its results.

    FlashAttention's backward accumulates the queries' gradient in float32, with rows rounded up to 128 and
    channels to 32, and stores a float per row (Dao et al., the sizes in ``flash_api.cpp``); in float32 the
    memory-efficient kernel is used, which stores a float per row. It holds for these two kernels of PyTorch
    only. cuDNN's attention, which PyTorch may prefer on compute capability 9.0 and 10.0 (``sdp_utils.cpp``),
    allocates a workspace of the size that cuDNN returns for each plan (``MHA.cpp``), which is documented
    nowhere; ``bench.measure.probes`` measures it.
    """
    if operation is not aten._scaled_dot_product_flash_attention_for_cpu_backward.default:
        return ()
    query = args[1]
    batch, heads, rows, channels = query.shape
    if query.dtype not in LOW:
        return (4 * batch * heads * rows,)
    rows, step = -(-rows // 128) * 128, 32 if channels <= 128 else 64
    return (4 * batch * heads * rows * (-(-channels // step) * step), 4 * batch * heads * rows)
