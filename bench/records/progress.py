"""Progress files in the results folder, written by the process that schedules the runs.

``progress/<run id>.json`` describes an active run, ``progress/queue+<machine>+<process>.json`` the runs that
a scheduler has not started yet. Files are written atomically, are at most a few seconds old, and are removed
when the run has a record or the scheduler ends. A file left by a killed process is recognised by the run's
lock, which is free.
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
"""Minimum time between two writes of a run's file."""
STALE_SECONDS = 600.0
"""Age at which another machine's queue file counts as stale."""
QUEUE = "queue"


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of an active run; times are Unix time in seconds."""

    run: str
    model: str
    strategy: str
    seed: int
    settings: str
    """The strategy's settings, as text from ``settings_text``."""
    protocol: str
    """The protocol's digest."""
    phase: str
    done: int
    total: int
    started: float
    phase_started: float
    phase_first: int
    """Value of ``done`` in the first report of the phase."""
    updated: float
    machine: str = dataclasses.field(default_factory=machine)
    process: int = dataclasses.field(default_factory=os.getpid)

    def phase_seconds_left(self) -> float | None:
        """Return the remaining seconds of the phase at its mean speed so far; None before any progress."""
        done = self.done - self.phase_first
        if done <= 0 or self.total < self.done:
            return None
        return (self.updated - self.phase_started) / done * (self.total - self.done)


def settings_text(settings: dict[str, Any]) -> str:
    """Return a strategy's settings, as in records, as text for comparisons."""
    return json.dumps(settings, sort_keys=True)


@dataclasses.dataclass(frozen=True)
class Waiting:
    """A run that is queued but not started."""

    run: str
    model: str
    strategy: str
    seed: int


def _folder(results: Path) -> Path:
    return results / "progress"


def _write(path: Path, content: Any) -> None:
    with contextlib.suppress(OSError):  # failing to write progress must not stop a run
        write_atomically(path, json.dumps(content).encode())


def write_progress(results: Path, progress: Progress) -> None:
    """Write the progress of a run."""
    _write(_folder(results) / f"{progress.run}.json", dataclasses.asdict(progress))


def remove_progress(results: Path, identifier: str) -> None:
    """Remove the progress file of a run."""
    with contextlib.suppress(OSError):
        (_folder(results) / f"{identifier}.json").unlink(missing_ok=True)


def _queue_path(results: Path) -> Path:
    return _folder(results) / f"{QUEUE}+{machine()}+{os.getpid()}.json"


def write_queue(results: Path, waiting: Sequence[Waiting]) -> None:
    """Write the queued runs of this process; an empty list removes the file."""
    path = _queue_path(results)
    if waiting:
        _write(path, [dataclasses.asdict(each) for each in waiting])
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def read_progress(results: Path) -> list[Progress]:
    """Return the progress of all runs, sorted by run id; invalid files are skipped."""
    found = []
    for path in sorted(_folder(results).glob("*.json")):
        if not path.name.startswith(f"{QUEUE}+"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                told = structure_dataclass(Progress, read_json(path, MAX_RECORD_BYTES, finite=True))
                found += [told] if told.run == path.stem else []  # the id is used in other paths
    return found


def read_queues(results: Path) -> list[Waiting]:
    """Return the queued runs of all living schedulers."""
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
    """Remove files left by killed processes: progress of runs that are not locked, and stale queues."""
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
