"""Memory meters: the peak of each phase of a training step and of inference, on CPU and on CUDA.

Both meters track storages by kind. The CUDA meter also reads the caching allocator's peaks, which it
resets between phases, and the device memory of this process that NVML reports.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from bench.memory.device import device_use
from bench.memory.tracker import HasState, StorageTracker


@dataclasses.dataclass(frozen=True)
class MemoryReading:
    """Peaks in bytes. ``None`` means that this meter cannot measure a value."""

    meter: str
    """``cpu-tensors`` (storages of CPU tensors) or ``cuda`` (the caching allocator)."""
    peak_allocated_bytes: int
    peak_reserved_bytes: int | None
    peak_device_bytes: int | None
    phases: dict[str, dict[str, int | None]]
    """For each phase its ``allocated``, ``reserved`` and ``device`` peak."""
    kinds: dict[str, int]
    """Bytes by kind at the highest tracked peak."""
    device_source: str | None = None
    """Where ``device`` peaks are from, ``process`` or ``card``: see ``device_use``."""

    def joined(self, other: MemoryReading) -> MemoryReading:
        """Return the reading with more allocated bytes, with the higher reserved and device peaks of both."""
        higher = max(other, self, key=lambda reading: reading.peak_allocated_bytes)
        return dataclasses.replace(
            higher,
            peak_reserved_bytes=_larger(self.peak_reserved_bytes, other.peak_reserved_bytes),
            peak_device_bytes=_larger(self.peak_device_bytes, other.peak_device_bytes),
        )


class Meter(Protocol):
    """The interface of meters that a training step uses."""

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]: ...

    def gradients_ready(self, parameters: Sequence[Tensor]) -> None: ...

    def optimizer_stepped(self, optimizer: HasState) -> None: ...


class NoMeter:
    """A meter that measures nothing."""

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def gradients_ready(self, parameters: Sequence[Tensor]) -> None:
        pass

    def optimizer_stepped(self, optimizer: HasState) -> None:
        pass


class MemoryMeter:
    """Measures the code inside ``with meter.watching(...)``."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.tracker = StorageTracker(device.type)
        self.cuda_peaks: dict[str, dict[str, int | None]] = {}
        self.device_source: str | None = None

    @contextlib.contextmanager
    def watching(
        self, module: nn.Module, optimizer: HasState | None = None, *, parameters: Iterable[Tensor] = ()
    ) -> Iterator[MemoryMeter]:
        """Label ``module``, its gradients and the optimizer's state by kind, and track all other storages.

        ``parameters`` are further tensors labelled as parameters: averaged weights, local shards.
        """
        self.tracker.label_module(module)
        for tensor in parameters:
            self.tracker.label(tensor, "parameter")
        if optimizer is not None:
            self.tracker.label_optimizer(optimizer)
        try:
            with self.tracker:
                yield self
        finally:
            self.tracker.close()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the block as the phase ``name``; a phase that runs twice keeps its higher peak."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            # Else the reserved and the device peak would be those of whatever ran before.
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        with self.tracker.phase(name):
            yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            used, self.device_source = device_use(self.device)
            reading = {
                "allocated": torch.cuda.max_memory_allocated(self.device),
                "reserved": torch.cuda.max_memory_reserved(self.device),
                "device": used,
            }
            before = self.cuda_peaks.get(name, {})
            self.cuda_peaks[name] = {key: _larger(value, before.get(key)) for key, value in reading.items()}

    def gradients_ready(self, parameters: Sequence[Tensor]) -> None:
        """Label the gradients that no hook has labelled: those of sharded parameters."""
        self.tracker.label_gradients(parameters)

    def optimizer_stepped(self, optimizer: HasState) -> None:
        """Label the optimizer's state, which its first step creates."""
        self.tracker.label_optimizer(optimizer)

    def reading(self) -> MemoryReading:
        """Return the peaks of the phases that ran since the start."""
        tracked = {name: moment.total for name, moment in self.tracker.peaks.items()}
        highest = max(self.tracker.peaks.values(), key=lambda moment: moment.total)
        kinds = {kind: size for kind, size in highest.kinds.items() if size}
        if self.device.type == "cuda":
            phases, meter = self.cuda_peaks, "cuda"
        else:
            meter = "cpu-tensors"
            phases = {
                name: {"allocated": peak, "reserved": None, "device": None} for name, peak in tracked.items()
            }
        allocated = _highest(phases, "allocated")
        assert allocated is not None
        reserved, used = _highest(phases, "reserved"), _highest(phases, "device")
        return MemoryReading(meter, allocated, reserved, used, dict(phases), kinds, self.device_source)


class AllocatorPeaks:
    """Peaks of CUDA's caching allocator over blocks that run without a meter; on a CPU it measures nothing.

    The allocator counts when memory is requested, so reading it needs no synchronization.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.allocated: int | None = None
        self.reserved: int | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Add the block's peaks."""
        if self.device.type != "cuda":
            yield
            return
        torch.cuda.reset_peak_memory_stats(self.device)
        yield
        self.allocated = _larger(self.allocated, torch.cuda.max_memory_allocated(self.device))
        self.reserved = _larger(self.reserved, torch.cuda.max_memory_reserved(self.device))

    def added_to(self, reading: MemoryReading, phase: str | None = None) -> MemoryReading:
        """Return the higher peaks of ``reading`` and of the blocks, also for its phase ``phase``."""
        if self.allocated is None:
            return reading
        # The process's memory grows only when the allocator reserves more.
        grown = (self.reserved or 0) > (reading.peak_reserved_bytes or 0)
        found = {
            "allocated": self.allocated,
            "reserved": self.reserved,
            "device": device_use(self.device)[0] if grown else None,
        }
        phases = dict(reading.phases)
        if phase is not None:
            phases[phase] = {key: _larger(value, phases[phase][key]) for key, value in found.items()}
        allocated = _larger(reading.peak_allocated_bytes, found["allocated"])
        assert allocated is not None
        return dataclasses.replace(
            reading,
            peak_allocated_bytes=allocated,
            peak_reserved_bytes=_larger(reading.peak_reserved_bytes, found["reserved"]),
            peak_device_bytes=_larger(reading.peak_device_bytes, found["device"]),
            phases=phases,
        )


def _larger(a: int | None, b: int | None) -> int | None:
    values = [value for value in (a, b) if value is not None]
    return max(values) if values else None


def _highest(phases: dict[str, dict[str, int | None]], key: str) -> int | None:
    values = [value for phase in phases.values() if (value := phase[key]) is not None]
    return max(values) if values else None
