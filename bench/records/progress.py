"""How far runs are, for whoever looks: small files beside the records, written by the process that drives.

``progress/<run id>.json`` tells of a run that goes on, ``progress/queue+<machine>+<process>.json`` of those
that a bench is still to begin. Each is whole at any time, a few seconds old at most, and gone when its run
has a record or its bench ends; one that a killed process left is told apart by the run's lock, which is free.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.io.reading import MAX_RECORD_BYTES, read_json
from bench.io.typed_values import structure_dataclass
from bench.io.writing import machine, process_runs, write_atomically
from bench.records.locks import try_lock

WRITE_INTERVAL_SECONDS = 3.0
"""A run's file is written this often at most."""
STALE_SECONDS = 600.0
"""After that the queue of another machine's bench is taken for one that nobody works on."""
QUEUE = "queue"


@dataclasses.dataclass(frozen=True)
class Progress:
    """A run that goes on; times are seconds of the clock on the wall, since 1970."""

    run: str
    model: str
    strategy: str
    seed: int
    settings: str
    """The strategy's, as ``settings_text`` has them."""
    protocol: str
    """Its digest."""
    phase: str
    done: int
    total: int
    started: float
    phase_started: float
    phase_first: int
    """What was done already when the phase was first heard of."""
    updated: float
    machine: str = dataclasses.field(default_factory=machine)
    process: int = dataclasses.field(default_factory=os.getpid)

    def phase_seconds_left(self) -> float | None:
        """Return how long the phase takes at its mean pace so far; None before anything was done."""
        done = self.done - self.phase_first
        if done <= 0 or self.total < self.done:
            return None
        return (self.updated - self.phase_started) / done * (self.total - self.done)


def settings_text(settings: dict[str, Any]) -> str:
    """Return a strategy's settings, as records have them, as a text to compare."""
    return json.dumps(settings, sort_keys=True)


@dataclasses.dataclass(frozen=True)
class Waiting:
    """A run that a bench is still to begin."""

    run: str
    model: str
    strategy: str
    seed: int


def _folder(results: Path) -> Path:
    return results / "progress"


def _write(path: Path, content: Any) -> None:
    with contextlib.suppress(OSError):  # a full disk stops no run that only wants to tell how far it is
        write_atomically(path, json.dumps(content).encode())


def write_progress(results: Path, progress: Progress) -> None:
    """Tell how far a run is."""
    _write(_folder(results) / f"{progress.run}.json", dataclasses.asdict(progress))


def remove_progress(results: Path, identifier: str) -> None:
    """Take back what was told of a run."""
    with contextlib.suppress(OSError):
        (_folder(results) / f"{identifier}.json").unlink(missing_ok=True)


def _queue_path(results: Path) -> Path:
    return _folder(results) / f"{QUEUE}+{machine()}+{os.getpid()}.json"


def write_queue(results: Path, waiting: Sequence[Waiting]) -> None:
    """Tell which runs this process is still to begin; none takes the file away."""
    path = _queue_path(results)
    if waiting:
        _write(path, [dataclasses.asdict(each) for each in waiting])
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def read_progress(results: Path) -> list[Progress]:
    """Return what is told of runs, by run; what is no such file is passed over."""
    found = []
    for path in sorted(_folder(results).glob("*.json")):
        if not path.name.startswith(f"{QUEUE}+"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                told = structure_dataclass(Progress, read_json(path, MAX_RECORD_BYTES, finite=True))
                found += [told] if told.run == path.stem else []  # it becomes part of other paths
    return found


def read_queues(results: Path) -> list[Waiting]:
    """Return the runs that living benches are still to begin."""
    found: list[Waiting] = []
    for path in sorted(_folder(results).glob(f"{QUEUE}+*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            if _queue_lives(path):
                told = read_json(path, MAX_RECORD_BYTES, finite=True)
                found += structure_dataclass(tuple[Waiting, ...], told)
    return found


def _queue_lives(path: Path) -> bool:
    _, where, process = path.stem.split("+")
    if where == machine():
        return process_runs(int(process))
    return time.time() - path.stat().st_mtime < STALE_SECONDS


def remove_stale(results: Path) -> None:
    """Remove what killed benches told: of runs whose locks are free, and queues that nobody works on."""
    for path in _folder(results).glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            if path.name.startswith(f"{QUEUE}+"):
                if not _queue_lives(path):
                    path.unlink(missing_ok=True)
            elif (lock := try_lock(results, path.stem)) is not None:
                try:
                    path.unlink(missing_ok=True)
                finally:
                    lock.release()
