"""The training history: measurements so far, and their conversion to plain values for a checkpoint."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bench.memory.meter import MemoryReading
from strategies.base import Fidelity


@dataclasses.dataclass(frozen=True)
class StageMemory:
    """The highest peak of the measured steps of one kind, in one stage at one fidelity."""

    stage: str
    fidelity: Fidelity
    step: str
    """``uncached`` (the backbone runs), ``first cached`` (encodings are computed and kept) or ``cached``."""
    reading: MemoryReading


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """The evaluation of the detector during training, on videos that are neither trained nor tested on."""

    step: int
    """Number of completed steps."""
    stage: str
    seconds: float
    """Wall seconds of the steps so far, without evaluations."""
    processor_seconds: float
    """The same in seconds of all threads of this process."""
    map_average: float
    """Average mAP as a fraction."""
    evaluation_seconds: float
    """Wall seconds of this evaluation."""


@dataclasses.dataclass(frozen=True)
class TrainingHistory:
    """The measurements of the training loop. Steps measured and ``times`` are of the current stage."""

    losses: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    """Classification and regression loss of every completed step."""
    memory: list[StageMemory] = dataclasses.field(default_factory=list)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    """Median seconds of a step for each finished stage."""
    trainable: dict[str, int] = dataclasses.field(default_factory=dict)
    schedule: list[tuple[int, str, Fidelity]] = dataclasses.field(default_factory=list)
    """The first step of each stage and fidelity."""
    resumed: list[int] = dataclasses.field(default_factory=list)
    """The number of completed steps at each time that the run was resumed."""
    measured: list[tuple[Fidelity, str]] = dataclasses.field(default_factory=list)
    """The fidelity and the kind of every step that ran under the memory meter."""
    times: list[float] = dataclasses.field(default_factory=list)
    """Seconds of every other step."""
    cpu_seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    """Median processor seconds of a step for each finished stage."""
    cpu_times: list[float] = dataclasses.field(default_factory=list)
    """Processor seconds of the steps of ``times``."""
    curve: list[CurvePoint] = dataclasses.field(default_factory=list)
    spent: list[float] = dataclasses.field(default_factory=lambda: [0.0, 0.0])
    """Wall seconds and processor seconds of all steps so far, of those under the meter too."""

    def add_step(self, started: tuple[float, float]) -> None:
        """Add the time since ``started``, a ``step_clock()``, to ``spent``."""
        for index, (now, before) in enumerate(zip(step_clock(), started, strict=True)):
            self.spent[index] += now - before

    def begin_stage(self) -> None:
        """Clear the measurements of the previous stage."""
        self.measured.clear()
        self.times.clear()
        self.cpu_times.clear()


def step_clock() -> tuple[float, float]:
    """Return a wall clock and the processor time of this process, in seconds."""
    return time.perf_counter(), time.process_time()


def to_dict(history: TrainingHistory) -> dict[str, Any]:
    """Return a history as numbers, text, lists, dicts and tensors; numbers keep all their bits."""
    return {
        "losses": torch.tensor(history.losses, dtype=torch.float64).reshape(-1, 2),
        "memory": [dataclasses.asdict(entry) for entry in history.memory],
        "seconds": dict(history.seconds),
        "trainable": dict(history.trainable),
        "held": [[first, stage, dataclasses.asdict(fidelity)] for first, stage, fidelity in history.schedule],
        "resumed": list(history.resumed),
        "measured": [[dataclasses.asdict(fidelity), step] for fidelity, step in history.measured],
        "times": torch.tensor(history.times, dtype=torch.float64),
        "cpu_seconds": dict(history.cpu_seconds),
        "cpu_times": torch.tensor(history.cpu_times, dtype=torch.float64),
        "curve": [dataclasses.asdict(point) for point in history.curve],
        "spent": list(history.spent),
    }


def from_dict(values: Mapping[str, Any]) -> TrainingHistory:
    """Return the history from the values of ``to_dict``; raise KeyError, TypeError or ValueError."""
    return TrainingHistory(
        losses=[(float(cls), float(reg)) for cls, reg in values["losses"].tolist()],
        memory=[
            StageMemory(
                each["stage"], Fidelity(**each["fidelity"]), each["step"], MemoryReading(**each["reading"])
            )
            for each in values["memory"]
        ],
        seconds=dict(values["seconds"]),
        trainable=dict(values["trainable"]),
        schedule=[(first, stage, Fidelity(**fidelity)) for first, stage, fidelity in values["held"]],
        resumed=list(values["resumed"]),
        measured=[(Fidelity(**fidelity), str(step)) for fidelity, step in values["measured"]],
        times=list(values["times"].tolist()),
        cpu_seconds=dict(values["cpu_seconds"]),
        cpu_times=list(values["cpu_times"].tolist()),
        curve=[CurvePoint(**each) for each in values["curve"]],
        spent=[float(each) for each in values["spent"]],
    )


@dataclasses.dataclass(frozen=True)
class TrainingLog:
    """The measurements of a finished training."""

    losses: tuple[tuple[float, float], ...]
    """Classification and regression loss of every step."""
    memory: tuple[StageMemory, ...]
    step_seconds: dict[str, float]
    """Median seconds of a step for each stage, without the steps under the meter and the first ones."""
    trainable_parameters: dict[str, int]
    """Number of trainable parameters for each stage."""
    schedule: tuple[tuple[int, str, Fidelity], ...]
    """The first step of each stage and fidelity, for each change."""
    resumed: tuple[int, ...] = ()
    """The number of completed steps at each time that the run was resumed."""
    step_cpu_seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    """As ``step_seconds``, of this process's processor time in all its threads."""
    curve: tuple[CurvePoint, ...] = ()


def late_median(times: Sequence[float]) -> float:
    """Return the median of the later half of times: the first unmeasured steps also fill the cache."""
    late = sorted(times[len(times) // 2 :])
    return late[len(late) // 2]
