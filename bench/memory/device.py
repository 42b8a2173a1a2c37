"""The device: its name and memory, and what other processes hold of a CUDA card."""

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
"""More than this in other processes' hands makes a card dirty; desktops and monitors hold less."""


def nvml_handle(device: torch.device) -> Any:
    """Return NVML's handle of a CUDA device, whatever CUDA_VISIBLE_DEVICES renumbered; raises NVMLError."""
    import pynvml

    pynvml.nvmlInit()
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")


def used_bytes(device: torch.device) -> int | None:
    """Return the bytes in use on the card by anybody, or None where NVML does not tell."""
    import pynvml

    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(nvml_handle(device)).used)
    except pynvml.NVMLError:
        return None


def check_device_idle(device: torch.device, used: int | None, capacity: int) -> None:
    """Raise InputError where others hold memory of the card, before this process has taken any."""
    # The driver itself takes about one part in two hundred of a large card.
    allowed = DIRTY_BYTES + capacity // 100
    if used is not None and used > allowed:
        raise InputError(
            f"--device: {used / 1e9:.1f} GB of {device} are in use by other processes, allowed are "
            f"{allowed / 1e9:.1f}; --force measures all the same"
        )


def allocator_settings() -> dict[str, Any]:
    """Return the caching allocator's backend and settings, as records have them."""
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    return {
        "backend": torch.cuda.get_allocator_backend(),
        **{name: os.environ.get(name) for name in names},
    }


@functools.cache
def processor_facts() -> Mapping[str, str]:
    """Return what Linux says of the first processor, by its names; empty elsewhere."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return {}
    lines = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def processor_name() -> str:
    """Return the processor's model name as the system gives it."""
    return processor_facts().get("model name") or platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    """Return the card's or the processor's model name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


def capacity_bytes(device: torch.device) -> int | None:
    """Return the bytes of memory that ``device`` has, where the system tells."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return physical_memory()


def physical_memory() -> int:
    """Return the machine's memory in bytes."""
    return int(psutil.virtual_memory().total)


def available_memory() -> int:
    """Return the bytes of memory that can still be taken, of the machine's or of the container's."""
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
    """Raise InputError where other processes hold memory of the card."""
    device = torch.device(name)
    check_device_idle(device, used_bytes(device), capacity_bytes(device) or 0)
