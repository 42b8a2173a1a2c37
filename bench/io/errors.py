"""Exceptions that end a command or a run in an orderly way: wrong input, or a requested stop."""

import errno
from typing import Any

from bench.io.text import printable


class InputError(ValueError):
    """Bad input. Its message is one line that names the file, the field and what is allowed.

    Every command prints it without a traceback and exits with code 2. A message may contain untrusted text:
    control characters are escaped here, for all messages.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class StuckDecoderError(InputError):
    """A decoder timed out and was killed. ``facts`` give the video, the frames and the seconds.

    A run in which this happens is recorded as a ``timeout`` row; elsewhere it is bad input.
    """

    def __init__(self, message: str, facts: dict[str, Any]) -> None:
        super().__init__(message)
        self.facts = facts


class StoppedError(Exception):
    """The run was requested to save its state and stop; the message gives its progress."""


DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM)
"""Error numbers of a disk that is full, read-only, broken, unmounted or not permitted."""
OF_THE_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Error numbers of a path that does not exist or has the wrong file type."""


def describe_os_error(error: OSError) -> str:
    """Return a one-line message for an error of the disk or the path; raise any other error again."""
    if error.errno not in DISK_ERRNOS + OF_THE_PATH:
        raise error
    place = error.filename2 or error.filename
    return printable(f"{place}: {error.strerror}" if place else str(error.strerror))
