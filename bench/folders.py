"""Where files may be written: in the folders that were named, not where a link in them leads."""

from __future__ import annotations

from pathlib import Path

from bench.errors import InputError

RESULTS = ("records", "detections", "ground_truth", "checkpoints", "unfinished", "tables", "figures")
WORK = ("locks", "progress", "jobs")
"""Of results, while runs go on."""


def check_inside(root: Path, *names: str) -> None:
    """Raise InputError for a folder of ``root`` that is a symbolic link to what lies outside of it.

    A folder of results or a cache may come from a stranger. Single files need no such check: they are
    replaced, never written into, so that a link goes and what it led to stays (``bench.record.replacing``).
    """
    for name in names:
        path = root / name
        try:
            inside = path.resolve().is_relative_to(root.resolve())
        except (OSError, RuntimeError):  # links in a circle
            inside = False
        if not inside:
            raise InputError(
                f"{path}: is a symbolic link that leads out of {root}, allowed is a folder in there"
            )
