"""Kernel file locks in the results folder, one per run, held by the process that schedules the run.

The kernel releases a lock when its process ends for any reason. Lock files are never removed: if one were
removed while another process waits for it, there would be two locks. Any process that sees the folder can
take a free lock, so several schedulers and cluster jobs can share one folder without other communication.
"""

from __future__ import annotations

import contextlib
import errno
import warnings
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from bench.io.errors import InputError

REPORT = "report"
"""Name of the lock held while tables and figures are written."""
PROBE = "probe"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


def lock_path(results: Path, name: str) -> Path:
    """Return the lock file of a run, or of another resource."""
    return results / "locks" / f"{name}.lock"


def _lock(results: Path, name: str, timeout: float) -> BaseFileLock | None:
    path = lock_path(results, name)
    if path.is_symlink():  # locking would truncate its target
        raise InputError(f"--results: {path} is a symbolic link, allowed is a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)
        with warnings.catch_warnings():  # it warns when it falls back to a lock that outlives its process
            warnings.simplefilter("ignore")
            lock.acquire(timeout=timeout, poll_interval=0.1)
    except Timeout:
        return None
    except NotImplementedError:
        raise _refused(path.parent, "there is no flock here") from None
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise _refused(path.parent, error.strerror or str(error)) from None
        raise InputError(f"--results: {path} cannot be locked ({error.strerror})") from None
    if isinstance(lock, SoftFileLock):
        lock.release()
        raise _refused(path.parent, "flock is not implemented")
    return lock


def _refused(folder: Path, reason: str) -> InputError:
    return InputError(
        f"--results: {folder} is on a file system without locks ({reason}); "
        "allowed is one that has flock: a local disk, NFS 4, Lustre mounted with flock"
    )


def try_lock(results: Path, name: str, patience_seconds: float = 0.0) -> BaseFileLock | None:
    """Return the acquired lock, or None if another process holds it for longer than ``patience_seconds``.

    Raises InputError if the file system does not support locks.
    """
    return _lock(results, name, patience_seconds)


@contextlib.contextmanager
def locked(results: Path, name: str) -> Iterator[None]:
    """Hold a lock during the block; waits for it without a time limit."""
    lock = _lock(results, name, -1)
    assert lock is not None
    try:
        yield
    finally:
        lock.release()


def is_locked(results: Path, name: str) -> bool:
    """Return whether a living process, this one or another, holds the lock."""
    if not lock_path(results, name).exists():
        return False
    lock = try_lock(results, name)
    if lock is None:
        return True
    lock.release()
    return False


def check_locks(results: Path) -> None:
    """Raise InputError if the results folder's file system does not support locks."""
    lock = try_lock(results, PROBE, 10.0)
    if lock is not None:
        lock.release()
