"""Probes of a card: its matrix rate, cuBLAS's workspaces, and what NVML says of this process."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch import nn

from bench.memory.cuda_ops import workspace_bytes
from bench.memory.device import capacity_bytes, nvml_handle, synchronize, used_bytes

MATRIX = {"cuda": 8192, "cpu": 256}
"""Rows and columns of the matrices, by kind of device: large enough for the full rate of an H200."""
PRODUCTS = 20


def matrix_rate(device: torch.device) -> dict[str, Any]:
    """Return the operations per second of a bfloat16 matrix product of random values: the median of many."""
    size = MATRIX[device.type]
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        torch.mm(left, right)
    seconds = []
    for _ in range(PRODUCTS):
        synchronize(device)
        started = time.perf_counter()
        torch.mm(left, right)
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    median = sorted(seconds)[PRODUCTS // 2]
    return {"rows": size, "seconds": median, "bfloat16_operations_per_second": 2 * size**3 / median}


def cublas_workspaces(device: torch.device) -> dict[str, Any]:
    """Return what the first products of a process leave allocated: in this thread, and in autograd's.

    Call it before any other product. ``linear`` has a bias, for which PyTorch calls cuBLASLt.
    """
    x = torch.zeros(512, 512, device=device, requires_grad=True)
    layer = nn.Linear(512, 512, device=device, dtype=torch.bfloat16)
    low = torch.zeros(64, 512, device=device, dtype=torch.bfloat16)
    found = {}
    with torch.no_grad():
        found["forward_bytes"] = _left_allocated(device, lambda: torch.mm(x, x))
        found["linear_bytes"] = _left_allocated(device, lambda: layer(low))
    # A backward pass runs in a thread of its own, which has its own handle.
    found["backward_bytes"] = _left_allocated(device, lambda: torch.autograd.grad(torch.mm(x, x).sum(), x))
    capability = torch.cuda.get_device_capability(device)
    return {**found, "capability": list(capability), "forecast_bytes": workspace_bytes(capability)}


def _left_allocated(device: torch.device, run: Any) -> int:
    """Return how many more bytes are allocated after ``run``, whose result is dropped."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.memory_allocated(device) - before


def nvml(device: torch.device) -> dict[str, Any]:
    """Return whether NVML lists this process by the id it knows of itself, and the sizes that it gives."""
    import pynvml

    held = torch.zeros(2**20, device=device)
    torch.cuda.synchronize(device)
    handle = nvml_handle(device)
    listed = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    own = [each.usedGpuMemory for each in listed if each.pid == os.getpid()]
    return {
        "process": os.getpid(),
        "processes": [{"id": each.pid, "bytes": each.usedGpuMemory} for each in listed],
        "process_bytes": own[0] if own else None,
        "used_bytes": used_bytes(device),
        "capacity_bytes": capacity_bytes(device),
        "allocated_bytes": torch.cuda.memory_allocated(device),
        "reserved_bytes": torch.cuda.memory_reserved(device),
        "held_bytes": held.nbytes,
    }
