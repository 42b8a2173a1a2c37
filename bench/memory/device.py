"""The device: its name and memory, and the memory of a GPU that other processes use."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.io.errors import InputError
from bench.memory.constants import CONTEXT_BYTES

DIRTY_BYTES = 200 * 2**20
"""If other processes use more than this, a GPU is not idle; desktops and monitoring tools use less."""


USED_BEFORE: dict[str, int] = {}
"""Bytes in use on each card, by its UUID, before this process opened CUDA: see ``note_used_bytes``."""


def synchronize(device: torch.device) -> None:
    """Wait for all work that was launched on ``device``, so that a clock read afterwards includes it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def card_uuid(device: torch.device) -> str:
    """Return the UUID of a CUDA device as NVML writes it; opens CUDA."""
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"


def nvml_handle(device: torch.device) -> Any:
    """Return NVML's handle of a CUDA device, independent of CUDA_VISIBLE_DEVICES; raise NVMLError."""
    import pynvml

    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByUUID(card_uuid(device))


def used_bytes(device: torch.device) -> int | None:
    """Return the bytes of the GPU that all processes use, or None where NVML does not report it."""
    import pynvml

    try:
        return _used(nvml_handle(device))
    except pynvml.NVMLError:
        return None


def _used(handle: Any) -> int:
    """Return the bytes that processes use, without those that the driver reserves (0.5 GB on 80 GB)."""
    import pynvml

    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2).used)
    except pynvml.NVMLError:  # an older driver, which counts what it reserves as used
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)


def process_device_bytes(device: torch.device) -> int | None:
    """Return the bytes of this process in NVML's list of processes, or None where it is not listed.

    In containers and virtual machines NVML's process ids may be others, or sizes unknown.
    """
    import pynvml

    try:
        processes: list[Any] = pynvml.nvmlDeviceGetComputeRunningProcesses(nvml_handle(device))
    except pynvml.NVMLError:
        return None
    used = [process.usedGpuMemory for process in processes if process.pid == os.getpid()]
    return int(used[0]) if used and used[0] is not None else None


def note_used_bytes(device: torch.device) -> None:
    """Note the bytes in use on every card. Call it before this process opens CUDA; later it has no effect."""
    if device.type != "cuda" or torch.cuda.is_initialized():
        return
    import pynvml

    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            USED_BEFORE[str(pynvml.nvmlDeviceGetUUID(handle))] = _used(handle)


def device_use(device: torch.device) -> tuple[int | None, str | None]:
    """Return the bytes that this process uses on ``device``, context included, and their source.

    The source is ``process`` (NVML's list of processes), or where this process is not listed ``card``: the
    bytes in use more than when ``note_used_bytes`` was called, which include changes by other processes.
    Both are None if neither is known.
    """
    listed = process_device_bytes(device)
    if listed is not None:
        return listed, "process"
    before, now = USED_BEFORE.get(card_uuid(device)), used_bytes(device)
    return (None, None) if before is None or now is None else (max(0, now - before), "card")


def own_bytes(device: torch.device) -> int:
    """Return the bytes that this process uses on ``device``: as listed, or by its allocator and a context."""
    listed = process_device_bytes(device)
    if listed is not None:
        return listed
    return torch.cuda.memory_reserved(device) + CONTEXT_BYTES if torch.cuda.is_initialized() else 0


def check_device_idle(device: torch.device, used: int | None, capacity: int) -> None:
    """Raise InputError if other processes than this one use GPU memory, of ``used`` bytes in use."""
    if used is None:
        return
    # Older drivers count the 0.5% of a large GPU that they reserve.
    others, allowed = used - own_bytes(device), DIRTY_BYTES + capacity // 100
    if others > allowed:
        raise InputError(
            f"--device: {others / 1e9:.1f} GB of {device} are in use by other processes, allowed are "
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
