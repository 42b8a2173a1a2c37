"""What a run ran on: versions, commit, device."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.memory.card import allocator_settings
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


def processor() -> dict[str, str | None]:
    """Return what decides a CPU result's last bits: the processor, and the kernels that PyTorch uses.

    ``identification`` tells processors apart that call themselves the same, as virtual machines do.
    """
    facts = processor_facts()
    named = ("cpu family", "model", "stepping", "CPU implementer", "CPU part")
    return {
        "model": processor_name(),
        "identification": ", ".join(f"{name} {facts[name]}" for name in named if name in facts) or None,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
    }


def device_name(device: torch.device) -> str:
    """Return the card's or the processor's model name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


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
    """Return the environment part of a record of so many processes, each with a device like this one."""
    commit, dirty = git_state(Path(__file__).parents[1])
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


def capacity_bytes(device: torch.device) -> int | None:
    """Return the bytes of memory that ``device`` has, where the system tells."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return physical_memory()


def physical_memory() -> int | None:
    """Return the machine's memory in bytes, where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def available_memory() -> int | None:
    """Return the bytes of memory that can still be taken, of the machine's or the container's, where told."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except OSError:
        pass
    try:
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no such group, or "max"
        pass
    return max(0, min(found)) if found else physical_memory()


def driver_version() -> str | None:
    """Return the version of the NVIDIA driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None
