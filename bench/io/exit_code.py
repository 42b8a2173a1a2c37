"""Run a command: parse arguments, return the exit code, and print one line if it fails."""

from __future__ import annotations

import argparse
import io
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

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

    Bad input and a failing disk print one line and return 2; an interruption (SIGTERM too) returns 130.
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
        return action(parser.parse_args(arguments))
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
