"""Environment of a run: versions, commit, device."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.io import PROJECT_ROOT
from bench.memory.device import (
    allocator_settings,
    capacity_bytes,
    device_name,
    driver_version,
    processor_facts,
    processor_name,
)
from datasets.video import readers_used

PACKAGES = ("torch", "timm", "numpy", "decord", "av", "pandas")


def git_state(root: Path) -> tuple[str | None, bool | None]:
    """Return the commit of the sources and whether they differ from it; (None, None) outside of git."""

    def ask(*words: str) -> str | None:
        try:
            answer = subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    changes = ask("status", "--porcelain", "--", "bench", "strategies", "datasets")
    return commit, None if commit is None or changes is None else bool(changes)


def processor() -> dict[str, str | None]:
    """Return what determines the last bits of a CPU result: the processor and PyTorch's kernels.

    ``identification`` distinguishes processors that report the same model name, as in virtual machines.
    """
    facts = processor_facts()
    named = ("cpu family", "model", "stepping", "CPU implementer", "CPU part")
    return {
        "model": processor_name(),
        "identification": ", ".join(f"{name} {facts[name]}" for name in named if name in facts) or None,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
    }


def attention_backends(device: torch.device) -> list[str]:
    """Return the kernels that scaled dot product attention may use on ``device``."""
    if device.type != "cuda":
        return ["cpu-flash"]
    flags = {
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
        "cudnn": torch.backends.cuda.cudnn_sdp_enabled(),
        "math": torch.backends.cuda.math_sdp_enabled(),
    }
    return [name for name, enabled in flags.items() if enabled]


def describe(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Return a record's field ``environment``, for ``processes`` processes that each have such a device."""
    commit, dirty = git_state(PROJECT_ROOT)
    packages: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    cuda = device.type == "cuda"
    return {
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": packages,
        "device": f"{processes} x {device_name(device)}" if processes > 1 else device_name(device),
        "device_type": device.type,
        "processor": processor(),
        "capacity_bytes": capacity_bytes(device),
        "driver": driver_version() if cuda else None,
        "allocator": allocator_settings() if cuda else None,
        "threads": torch.get_num_threads(),
        "attention_backends": attention_backends(device),
        "video_reader": readers_used(),
    }
