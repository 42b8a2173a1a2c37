"""What ends a command or a run in order: the caller's input is wrong, or the end was asked for."""

import errno
from typing import Any

from bench.io.text import printable


class InputError(ValueError):
    """Bad input. Its message is one line that names the file, the field and what is allowed.

    Every command prints it without a traceback and exits with code 2. What strangers wrote may stand in it:
    control characters are escaped here, for all messages.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class StuckDecoderError(InputError):
    """A decoder gave no answer in time and was killed. ``facts`` name the video, the frames and the seconds.

    A run that meets one ends as a ``timeout`` row; elsewhere it is bad input.
    """

    def __init__(self, message: str, facts: dict[str, Any]) -> None:
        super().__init__(message)
        self.facts = facts


class StoppedError(Exception):
    """The run was asked to keep what it has and end; the message says where it stood."""


DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM)
"""Errors of a disk that is full, read-only, broken, gone or somebody else's."""
OF_THE_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors of a path that leads nowhere, or to something of another sort."""


def describe_os_error(error: OSError) -> str:
    """Return one line on a disk or a path that serves no reading or writing; raise any other error again."""
    if error.errno not in DISK_ERRNOS + OF_THE_PATH:
        raise error
    place = error.filename2 or error.filename
    return printable(f"{place}: {error.strerror}" if place else str(error.strerror))
