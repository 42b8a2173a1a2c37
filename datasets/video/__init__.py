"""Reading of frames from video files, and the reads of this process.

PyAV is imported only where a video is read: training steps on random frames do not need it.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_served: dict[str, set[Path]] = {}
"""The files that each reader has read, wholly or in part."""


@dataclass(frozen=True)
class Reading:
    """A read in progress in a thread: file, first and last frame, and start time (monotonic)."""

    path: Path
    first: int
    last: int
    since: float


reading: dict[int, Reading] = {}
"""The read in progress of each thread."""


def reading_now() -> tuple[Reading, ...]:
    """Return the reads in progress in this process's threads, the longest first."""
    return tuple(sorted(reading.values(), key=lambda each: each.since))


def note_read(reader: str, path: Path) -> None:
    """Note that a reader has read a file, wholly or in part."""
    _served.setdefault(reader, set()).add(path)


def readers_used(path: Path | None = None) -> str | None:
    """Return the readers that this process has used, with numbers of files, or for one file; None if none."""
    if path is not None:
        return ", ".join(sorted(name for name, files in _served.items() if path in files)) or None
    if len(_served) < 2:
        return next(iter(_served), None)
    return ", ".join(f"{name} ({len(files)} files)" for name, files in sorted(_served.items()))


def __getattr__(name: str) -> Any:
    """Return ``probe`` or ``read_frames``, which are imported on first use, as they import PyAV."""
    if name in ("probe", "read_frames"):
        return getattr(importlib.import_module(f"{__name__}.frames"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
