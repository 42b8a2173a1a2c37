"""Scratch memory of CUDA's kernels, for steps traced on a CPU: of attention, and cuBLAS workspaces."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

import torch

from bench.memory.cuda_autocast import LOW

aten = torch.ops.aten
MATRIX_PRODUCTS = (
    *(aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.addbmm.default),
    *(aten.addmv.default, aten.mv.default, aten.dot.default, aten.vdot.default),
)
SMALL_WORKSPACE = 8320 * 2**10
LARGE_WORKSPACE = 32 * 2**20
LT_WORKSPACE = 2**20
"""cuBLASLt's, for sums of a product and a vector, where workspaces are not kept."""

LARGE_MAJORS = {(2, 11): (9,), (2, 12): (9, 10, 12), (2, 13): (9, 10, 12)}
"""Major compute capabilities with large workspaces in versions of PyTorch; later ones: 9 to 12."""


def torch_version() -> tuple[int, int]:
    """Return the major and minor version of PyTorch."""
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def workspace_bytes(capability: tuple[int, int] | None) -> int:
    """Return the size of a cuBLAS workspace of PyTorch in this process's environment.

    ``capability`` is the card's compute capability; None, for a card that is not known, gives the largest.
    ``CUBLAS_WORKSPACE_CONFIG`` (":KiB:count", several in a row) replaces PyTorch's default. Source:
    ``aten/src/ATen/cuda/CublasHandlePool.cpp`` of PyTorch 2.11 to 2.15. cuBLASLt shares it; 1 MiB that
    PyTorch 2.11 keeps for cuBLASLt beside it is not counted.
    """
    pools = re.findall(r":(\d+):(\d+)", os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""))
    if pools:
        return sum(int(size) * 2**10 * int(count) for size, count in pools)
    large = LARGE_MAJORS.get(torch_version(), (9, 10, 11, 12))
    return LARGE_WORKSPACE if capability is None or capability[0] in large else SMALL_WORKSPACE


def keeps_workspaces() -> bool:
    """Return whether PyTorch keeps a cuBLAS workspace for each thread; otherwise each product allocates one.

    From PyTorch 2.15 on they are kept only if ``TORCH_CUBLAS_WORKSPACE_CACHE`` is 1.
    """
    return torch_version() < (2, 15) or os.environ.get("TORCH_CUBLAS_WORKSPACE_CACHE") == "1"


LARGEST_WORKSPACE = workspace_bytes(None)
KEEPS_WORKSPACES = keeps_workspaces()


def kernel_scratch(operation: Any, args: tuple[Any, ...], *, workspace: int = 0) -> Iterable[int]:
    """Return the bytes of temporary memory that an operation's CUDA kernel allocates, beside its results.

    ``workspace`` is the size of a cuBLAS workspace if every matrix product allocates one.

    FlashAttention's backward accumulates the queries' gradient in float32, with rows rounded up to 128 and
    channels to 32, and stores a float per row (Dao et al., the sizes in ``flash_api.cpp``); in float32 the
    memory-efficient kernel is used, which stores a float per row. It holds for these two kernels of PyTorch
    only. cuDNN's attention, which PyTorch may prefer on compute capability 9.0 and 10.0 (``sdp_utils.cpp``),
    allocates a workspace of the size that cuDNN returns for each plan (``MHA.cpp``), which is documented
    nowhere; ``bench.measure.probes`` measures it.
    """
    if workspace and operation in MATRIX_PRODUCTS:
        return (LT_WORKSPACE if operation is aten.addmm.default and args[0].dim() == 1 else workspace,)
    if operation is not aten._scaled_dot_product_flash_attention_for_cpu_backward.default:
        return ()
    query = args[1]
    batch, heads, rows, channels = query.shape
    if query.dtype not in LOW:
        return (4 * batch * heads * rows,)
    rows, step = -(-rows // 128) * 128, 32 if channels <= 128 else 64
    return (4 * batch * heads * rows * (-(-channels // step) * step), 4 * batch * heads * rows)
