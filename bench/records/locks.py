"""Who does a run: kernel locks in the results folder, one a run, held by the process that drives it.

A lock ends with its process, however that went. The files stay: one that is removed while another process
waits for it would be two locks. What the kernel knows as free may be taken by anybody who sees the folder,
so several benches, and the jobs of a cluster, share one folder without a word between them.
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
"""The lock of whoever writes tables and figures."""
PROBE = "probe"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


def lock_path(results: Path, name: str) -> Path:
    """Return where the lock of a run, or of another thing, lies."""
    return results / "locks" / f"{name}.lock"


def _lock(results: Path, name: str, timeout: float) -> BaseFileLock | None:
    path = lock_path(results, name)
    if path.is_symlink():  # locking empties what it leads to
        raise InputError(f"--results: {path} is a symbolic link, allowed is a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)
        with warnings.catch_warnings():  # it warns before it falls back to a lock that outlives its process
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
    """Return the lock, taken, or None where another process has it and keeps it for so long.

    Raises InputError where the file system has no locks.
    """
    return _lock(results, name, patience_seconds)


@contextlib.contextmanager
def locked(results: Path, name: str) -> Iterator[None]:
    """Hold a lock during the block, after waiting for it as long as it takes."""
    lock = _lock(results, name, -1)
    assert lock is not None
    try:
        yield
    finally:
        lock.release()


def is_locked(results: Path, name: str) -> bool:
    """Say whether a living process, this one or another, holds a lock."""
    if not lock_path(results, name).exists():
        return False
    lock = try_lock(results, name)
    if lock is None:
        return True
    lock.release()
    return False


def check_locks(results: Path) -> None:
    """Raise InputError where the results folder has no locks."""
    lock = try_lock(results, PROBE, 10.0)
    if lock is not None:
        lock.release()
