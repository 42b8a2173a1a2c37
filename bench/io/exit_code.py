"""Exit codes of commands, and the one line that says why a command failed."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable
from typing import Any

from bench.io.errors import InputError, describe_os_error

RUNS_KEPT = "; finished runs are kept, the same command goes on"
"""What the verbs add that make runs."""


def exit_code(verb: str, action: Callable[[], int], kept: str = "") -> int:
    """Return the exit code of ``action``: bad input and a failing disk are one line and 2, an interruption
    (TERM too) is 130. ``kept`` is added where the end lies with the machine or with whoever interrupted.
    """

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Where a locale lacks ±, its escape is shown, as on standard error.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return action()
    except InputError as error:
        print(f"{verb}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{verb}: {describe_os_error(error)}{kept}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{verb}: interrupted{kept}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
