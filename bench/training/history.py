"""What training has measured so far, and the same as plain values for a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from bench.memory.meter import MemoryReading
from strategies.base import Fidelity


@dataclasses.dataclass(frozen=True)
class StageMemory:
    """The peak of a full training step of one stage at one fidelity."""

    stage: str
    fidelity: Fidelity
    reading: MemoryReading


@dataclasses.dataclass(frozen=True)
class TrainingHistory:
    """The lists and tables that the training loop fills. The last two are of the current stage."""

    losses: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    """Classification and regression loss of every step done."""
    memory: list[StageMemory] = dataclasses.field(default_factory=list)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    """Median seconds of a step for each finished stage."""
    trainable: dict[str, int] = dataclasses.field(default_factory=dict)
    schedule: list[tuple[int, str, Fidelity]] = dataclasses.field(default_factory=list)
    """The step from which on a stage and a fidelity held."""
    resumed: list[int] = dataclasses.field(default_factory=list)
    """The steps that were done whenever the run was taken up again."""
    measured: list[Fidelity] = dataclasses.field(default_factory=list)
    """The fidelity of every step under the meter."""
    times: list[float] = dataclasses.field(default_factory=list)
    """Seconds of every other step."""

    def begin_stage(self) -> None:
        """Forget what is of the stage before."""
        self.measured.clear()
        self.times.clear()


def to_dict(history: TrainingHistory) -> dict[str, Any]:
    """Return a history as numbers, text, lists, tables and tensors; numbers keep all their bits."""
    return {
        "losses": torch.tensor(history.losses, dtype=torch.float64).reshape(-1, 2),
        "memory": [dataclasses.asdict(entry) for entry in history.memory],
        "seconds": dict(history.seconds),
        "trainable": dict(history.trainable),
        "held": [[first, stage, dataclasses.asdict(fidelity)] for first, stage, fidelity in history.schedule],
        "resumed": list(history.resumed),
        "measured": [dataclasses.asdict(fidelity) for fidelity in history.measured],
        "times": torch.tensor(history.times, dtype=torch.float64),
    }


def from_dict(values: Mapping[str, Any]) -> TrainingHistory:
    """Return the history that ``to_dict`` wrote; raise KeyError, TypeError or ValueError for others."""
    return TrainingHistory(
        losses=[(float(cls), float(reg)) for cls, reg in values["losses"].tolist()],
        memory=[
            StageMemory(each["stage"], Fidelity(**each["fidelity"]), MemoryReading(**each["reading"]))
            for each in values["memory"]
        ],
        seconds=dict(values["seconds"]),
        trainable=dict(values["trainable"]),
        schedule=[(first, stage, Fidelity(**fidelity)) for first, stage, fidelity in values["held"]],
        resumed=list(values["resumed"]),
        measured=[Fidelity(**fidelity) for fidelity in values["measured"]],
        times=list(values["times"].tolist()),
    )


@dataclasses.dataclass(frozen=True)
class TrainingLog:
    """What training measured."""

    losses: tuple[tuple[float, float], ...]
    """Classification and regression loss of every step."""
    memory: tuple[StageMemory, ...]
    step_seconds: dict[str, float]
    """Median seconds of a step for each stage; the measured and the first steps are left out."""
    trainable_parameters: dict[str, int]
    """For each stage."""
    schedule: tuple[tuple[int, str, Fidelity], ...]
    """The step from which on a stage and a fidelity held, for each of their changes."""
    resumed: tuple[int, ...] = ()
    """The steps that were done each time that the run was taken up again."""
