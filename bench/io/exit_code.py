"""Running a command: its arguments, its exit code, and the one line that says why it failed."""

from __future__ import annotations

import argparse
import io
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from bench.io.errors import InputError, describe_os_error

RUNS_KEPT = "; finished runs are kept, the same command goes on"
"""What the commands add that make runs."""
PREFIX = "python -m "


class CommandParser(argparse.ArgumentParser):
    """A parser that raises InputError for wrong arguments: one line without the usage, as all bad input."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message.removeprefix("argument "))


def run_command(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    action: Callable[[argparse.Namespace], int],
    kept: str = "",
) -> int:
    """Parse ``arguments`` (None for those of the process), run ``action``, and return the exit code.

    Bad input and a failing disk are one line and 2, an interruption (TERM too) is 130. ``kept`` is added to
    the line where the end lies with the machine or with whoever interrupted.
    """
    command = parser.prog.removeprefix(PREFIX)

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Where a locale lacks ±, its escape is shown, as on standard error.
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
