"""Atomic writing of files: written under a hidden temporary name, then renamed."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.io.errors import InputError

DRAFT = re.compile(r"\.(.*)\.([A-Za-z0-9-]*)\.(\d+)\.draft")

STALE_TEMP_SECONDS = 24 * 3600
"""Age after which a temporary file of another machine's process is regarded as stale."""


def machine() -> str:
    """Return this machine's name, reduced to letters, digits and dashes."""
    return re.sub("[^A-Za-z0-9-]", "-", platform.node())


def temp_path(path: Path) -> Path:
    """Return the hidden temporary name beside ``path`` under which this process writes ``path``."""
    return path.with_name(f".{path.name}.{machine()}.{os.getpid()}.draft")


def remove_stale_temps(folder: Path, in_use: Callable[[str], bool] = lambda name: False) -> int:
    """Remove the temporary files below ``folder`` whose processes have ended; return how many.

    ``in_use`` returns whether another process may still be writing a file of a given final name: a process
    that is not visible here may run in a container with the same machine name.
    """
    removed = 0
    for path in folder.rglob(".*.draft"):
        if (found := DRAFT.fullmatch(path.name)) is None:
            continue
        with contextlib.suppress(OSError):  # another process removed it, or permission is missing
            if found[2] == machine():
                left = not process_runs(int(found[3]))
            else:
                left = time.time() - path.stat().st_mtime > STALE_TEMP_SECONDS
            if left and not in_use(found[1]):
                path.unlink()
                removed += 1
    return removed


def process_runs(process: int) -> bool:
    """Return whether this machine has a process with that id."""
    import psutil  # only where it is needed: most commands start without it

    try:
        return psutil.pid_exists(process)
    except OverflowError:
        return True


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = temp_path(path)
    try:
        # Always create a new file: an attacker who predicts the name may have put a symbolic link there.
        draft.unlink(missing_ok=True)
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to a temporary file beside ``path`` and rename it, so that no reader sees a part."""
    with atomic_path(path) as draft:
        draft.write_bytes(content)


def write_output(option: str, path: Path, content: str | bytes) -> None:
    """Write a file that the user requested by ``option``.

    Raises InputError if it cannot be written. A missing folder is not created: it may be a typing error.
    """
    if not path.parent.exists():
        raise InputError(f"{option}: {path} cannot be written (there is no folder {path.parent})")
    try:
        write_atomically(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise InputError(f"{option}: {path} cannot be written ({error.strerror})") from None


def check_inside(root: Path, *names: str) -> None:
    """Raise InputError for a folder of ``root`` that is a symbolic link to a place outside of it.

    A folder of results or a cache may be untrusted. Single files need no such check: they are replaced, never
    written into, so that a link is removed and its target stays unchanged (``atomic_path``).
    """
    for name in names:
        path = root / name
        try:
            inside = path.resolve().is_relative_to(root.resolve())
        except (OSError, RuntimeError):  # a loop of symbolic links
            inside = False
        if not inside:
            raise InputError(
                f"{path}: is a symbolic link that leads out of {root}, allowed is a folder in there"
            )
