"""The device: its name and memory, and the memory of a GPU that other processes use."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.io.errors import InputError

DIRTY_BYTES = 200 * 2**20
"""If other processes use more than this, a GPU is not idle; desktops and monitoring tools use less."""


def synchronize(device: torch.device) -> None:
    """Wait for all work that was launched on ``device``, so that a clock read afterwards includes it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def nvml_handle(device: torch.device) -> Any:
    """Return NVML's handle of a CUDA device, independent of CUDA_VISIBLE_DEVICES; raise NVMLError."""
    import pynvml

    pynvml.nvmlInit()
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")


def used_bytes(device: torch.device) -> int | None:
    """Return the bytes of the GPU that all processes use, or None where NVML does not report it."""
    import pynvml

    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(nvml_handle(device)).used)
    except pynvml.NVMLError:
        return None


def check_device_idle(device: torch.device, used: int | None, capacity: int) -> None:
    """Raise InputError if other processes use GPU memory. Call it before this process allocates any."""
    # The driver itself uses about 0.5% of a large GPU.
    allowed = DIRTY_BYTES + capacity // 100
    if used is not None and used > allowed:
        raise InputError(
            f"--device: {used / 1e9:.1f} GB of {device} are in use by other processes, allowed are "
            f"{allowed / 1e9:.1f}; --force measures anyway"
        )


def allocator_settings() -> dict[str, Any]:
    """Return the caching allocator's backend and settings for the record."""
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    return {
        "backend": torch.cuda.get_allocator_backend(),
        **{name: os.environ.get(name) for name in names},
    }


@functools.cache
def processor_facts() -> Mapping[str, str]:
    """Return the fields of the first processor in Linux's /proc/cpuinfo; empty on other systems."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return {}
    lines = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def processor_name() -> str:
    """Return the processor's model name as the system reports it."""
    return processor_facts().get("model name") or platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    """Return the model name of the GPU or the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


def capacity_bytes(device: torch.device) -> int | None:
    """Return the memory of ``device`` in bytes, or None where the system does not report it."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return physical_memory()


def physical_memory() -> int:
    """Return the machine's memory in bytes."""
    return int(psutil.virtual_memory().total)


def available_memory() -> int:
    """Return the bytes of memory that are still available, within the container's limit if there is one."""
    free = int(psutil.virtual_memory().available)
    try:
        group = Path("/sys/fs/cgroup")
        free = min(
            free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
        )
    except (OSError, ValueError):  # no such group, or "max"
        pass
    return max(0, free)


def driver_version() -> str | None:
    """Return the version of the NVIDIA driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


def check_card(name: str) -> None:
    """Raise InputError if other processes use memory of the GPU."""
    device = torch.device(name)
    check_device_idle(device, used_bytes(device), capacity_bytes(device) or 0)
