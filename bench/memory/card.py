"""What a CUDA card holds besides this process: a measurement on a card that others use is not one."""

from __future__ import annotations

from typing import Any

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


def check_clean(device: torch.device, used: int | None, capacity: int) -> None:
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
    import os

    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    return {
        "backend": torch.cuda.get_allocator_backend(),
        **{name: os.environ.get(name) for name in names},
    }
