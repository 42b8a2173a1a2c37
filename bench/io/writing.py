"""Files that appear whole or not at all: written under a hidden name, then renamed."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from bench.io.errors import InputError

DRAFT = re.compile(r"\.(.*)\.([A-Za-z0-9-]*)\.(\d+)\.draft")

STALE_TEMP_SECONDS = 24 * 3600
"""After that a draft of another machine's process is taken for one that nobody writes any more."""


def machine() -> str:
    """Return this machine's name, of letters, digits and dashes alone."""
    return re.sub("[^A-Za-z0-9-]", "-", platform.node())


def temp_path(path: Path) -> Path:
    """Return the hidden name beside ``path`` under which this process writes what is to become ``path``."""
    return path.with_name(f".{path.name}.{machine()}.{os.getpid()}.draft")


def remove_stale_temps(folder: Path, in_use: Callable[[str], bool] = lambda name: False) -> int:
    """Remove the drafts below ``folder`` whose processes are gone, however they went; return how many.

    ``in_use`` says of the name of a file that is to be whether somebody may be writing it all the same:
    what looks gone from here may live in a container of the same name.
    """
    removed = 0
    for path in folder.rglob(".*.draft"):
        if (found := DRAFT.fullmatch(path.name)) is None:
            continue
        with contextlib.suppress(OSError):  # somebody else removed it, or it is not ours to remove
            if found[2] == machine():
                left = not process_runs(int(found[3]))
            else:
                left = time.time() - path.stat().st_mtime > STALE_TEMP_SECONDS
            if left and not in_use(found[1]):
                path.unlink()
                removed += 1
    return removed


def process_runs(process: int) -> bool:
    """Say whether this machine has a process of that id."""
    try:
        return psutil.pid_exists(process)
    except OverflowError:
        return True


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give the path of a draft beside ``path`` that takes its place, whole, when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = temp_path(path)
    try:
        # Made anew: who knows the name beforehand may have put a link there that leads elsewhere.
        draft.unlink(missing_ok=True)
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to a draft beside ``path`` and rename it, so that no reader sees half of it."""
    with atomic_path(path) as draft:
        draft.write_bytes(content)


def write_output(option: str, path: Path, content: str | bytes) -> None:
    """Write a file that the user asked for by ``option``.

    Raises InputError where it cannot be written; a folder that does not exist may be a typing error.
    """
    if not path.parent.exists():
        raise InputError(f"{option}: {path} cannot be written (there is no folder {path.parent})")
    try:
        write_atomically(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise InputError(f"{option}: {path} cannot be written ({error.strerror})") from None


def check_inside(root: Path, *names: str) -> None:
    """Raise InputError for a folder of ``root`` that is a symbolic link to what lies outside of it.

    A folder of results or a cache may come from a stranger. Single files need no such check: they are
    replaced, never written into, so that a link goes and what it led to stays (``atomic_path``).
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
