"""What must hold before the runs of a matrix start: room for their records, and a card of their own."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from bench.io.errors import InputError
from bench.io.writing import check_inside
from bench.records.paths import RESULTS, WORK

NEEDED_BYTES = 64 * 2**20


def check_writable(results: Path) -> None:
    """Raise InputError unless records can be written into a folder of its own and there is room for them."""
    check_inside(results, *RESULTS, *WORK)
    folder = results / "records"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x" * 4096)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(f"--results: {folder} cannot be written ({error.strerror})") from None
    if free < NEEDED_BYTES:
        raise InputError(f"--results: {folder} has {free >> 20} MiB free, {NEEDED_BYTES >> 20} are needed")
