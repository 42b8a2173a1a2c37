"""Run a command: parse arguments, return the exit code, and print one line if it fails."""

from __future__ import annotations

import argparse
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO

from bench.io.errors import InputError, describe_os_error

RUNS_KEPT = "; finished runs are kept, run the same command to resume"
"""Text that commands which make runs append to the error message."""
PREFIX = "python -m "


class CommandParser(argparse.ArgumentParser):
    """A parser that raises InputError for wrong arguments: one line without the usage text."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message.removeprefix("argument "))


def run_command(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    action: Callable[[argparse.Namespace], int],
    kept: str = "",
) -> int:
    """Parse ``arguments`` (None for those of the process), run ``action``, and return the exit code.

    Bad input and a failing disk print one line and return 2; an interruption (SIGTERM too) returns 130. If
    nobody reads standard output or error any more, as after ``| head``, nothing is printed, and it returns 1.
    ``kept`` is appended to the line if the cause is the machine or an interruption.
    """
    command = parser.prog.removeprefix(PREFIX)

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # If the locale cannot encode ±, print its escape, as standard error does.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _flushed(lambda: action(parser.parse_args(arguments)))
    except BrokenPipeError:
        if not _discard_unread_output():
            raise
        return 1
    except InputError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{command}: {describe_os_error(error)}{kept}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{command}: interrupted{kept}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def _flushed(action: Callable[[], int]) -> int:
    """Run an action and write what it printed; this would else fail at the exit, with a traceback."""
    try:
        return action()
    finally:
        if sys.stdout is not None:  # None if it is closed
            sys.stdout.flush()


def _discard_unread_output() -> bool:
    """Discard further output to pipes that nobody reads; return whether there are any.

    What is in the buffer would else be written at the exit, which would fail again
    (https://docs.python.org/3/library/signal.html#note-on-sigpipe).
    """
    unread = [stream for stream in (sys.stdout, sys.stderr) if stream is not None and _is_unread(stream)]
    for stream in unread:
        discard = os.open(os.devnull, os.O_WRONLY)
        os.dup2(discard, stream.fileno())
        os.close(discard)
    return bool(unread)


def _is_unread(stream: TextIO) -> bool:
    """Return whether a stream is a pipe whose other end is closed."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError):
        return False  # no file, as in tests
