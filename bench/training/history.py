"""The training history: measurements so far, and their conversion to plain values for a checkpoint."""

from __future__ import annotations

import bisect
import dataclasses
import statistics
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
    """Wall seconds of the steps so far (``TrainingHistory.spent``), without evaluations."""
    processor_seconds: float
    """The same in seconds of all threads of this process."""
    map_average: float
    """Average mAP as a fraction."""
    evaluation_seconds: float
    """Wall seconds of this evaluation."""


@dataclasses.dataclass(frozen=True)
class StepTime:
    """The time of one step."""

    seconds: float
    processor_seconds: float
    steady: bool
    """Whether it ran without the memory meter and found the encodings that it needed in memory."""


@dataclasses.dataclass(frozen=True)
class EncodingTime:
    """What a stage's encodings cost that are computed once and cached, estimated from some of them.

    Of the passes of all training videos through the frozen part of the backbone, without decoding.
    """

    stage: str
    seconds: float
    processor_seconds: float
    passes: int
    """Passes of all training videos; the times are those of ``measured`` passes, scaled."""
    measured: int


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
    dropped: list[int] = dataclasses.field(default_factory=list)
    """Completed steps at evaluations that ran out of memory, which have no point in ``curve``."""
    steps: list[StepTime] = dataclasses.field(default_factory=list)
    """The time of every completed step."""
    encoding: list[EncodingTime] = dataclasses.field(default_factory=list)
    """For each finished stage that caches encodings."""

    def add_step(self, started: tuple[float, float], *, steady: bool) -> None:
        """Add a step that began at ``started``, a ``step_clock()``."""
        wall, processor = (now - before for now, before in zip(step_clock(), started, strict=True))
        self.steps.append(StepTime(wall, processor, steady))

    def spent(self, count: int) -> tuple[float, float]:
        """Return the wall and the processor seconds of the first ``count`` steps.

        A steady step counts as measured. Any other counts as the median of the steady steps of its stage and
        fidelity, of its stage if there are none, and as measured if there are none of the stage either. So
        neither the meter nor what other runs have left on disk counts, and encodings that are computed once
        do not either.
        """
        groups = [
            bisect.bisect_right(self.schedule, n, key=lambda each: each[0]) for n in range(len(self.steps))
        ]
        keys = [self.schedule[each - 1][1:] for each in groups]
        totals = [0.0, 0.0]
        for index, field in enumerate(("seconds", "processor_seconds")):
            steady: dict[Any, list[float]] = {}
            for (stage, fidelity), step in zip(keys, self.steps, strict=True):
                if step.steady:
                    steady.setdefault((stage, fidelity), []).append(getattr(step, field))
                    steady.setdefault(stage, []).append(getattr(step, field))
            medians = {key: statistics.median(values) for key, values in steady.items()}
            for (stage, fidelity), step in zip(keys[:count], self.steps[:count], strict=True):
                own = getattr(step, field)
                typical = medians.get((stage, fidelity), medians.get(stage, own))
                totals[index] += own if step.steady else typical
        return totals[0], totals[1]

    def timed_curve(self) -> tuple[CurvePoint, ...]:
        """Return the curve with ``spent`` by the medians of all steps, those after a point too."""
        return tuple(
            dataclasses.replace(point, seconds=wall, processor_seconds=processor)
            for point in self.curve
            for wall, processor in [self.spent(point.step)]
        )

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
        "dropped": list(history.dropped),
        "steps": [dataclasses.astuple(step) for step in history.steps],
        "encoding": [dataclasses.asdict(each) for each in history.encoding],
    }


def from_dict(values: Mapping[str, Any]) -> TrainingHistory:
    """Return the history from the values of ``to_dict``; raise KeyError, TypeError or ValueError.

    ValueError for a field that is not there, as in a checkpoint of another version.
    """
    names = to_dict(TrainingHistory())
    if missing := sorted(names.keys() - values.keys()):
        raise ValueError(f"history: field {missing[0]} is missing, as in another version")
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
        dropped=list(values["dropped"]),
        steps=[StepTime(*each) for each in values["steps"]],
        encoding=[EncodingTime(**each) for each in values["encoding"]],
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
    dropped: tuple[int, ...] = ()
    """Completed steps at evaluations that ran out of memory."""
    encoding: tuple[EncodingTime, ...] = ()


def late_median(times: Sequence[float]) -> float:
    """Return the median of the later half of times: the first unmeasured steps also fill the cache."""
    late = sorted(times[len(times) // 2 :])
    return late[len(late) // 2]
