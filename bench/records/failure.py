"""The status, message and facts of a run that ended with an error."""

from __future__ import annotations

import signal
from typing import Any

from bench.io.errors import StoppedError, StuckDecoderError
from bench.training.nonfinite import NonFiniteLossError


def failure(error: BaseException) -> tuple[str, str]:
    """Return the status and the one-line message of a run that ended with ``error``."""
    import torch  # only where a run has failed: the process that starts runs does without

    lines = str(error).strip().splitlines()
    message = f"{type(error).__name__}: {lines[0][:400]}" if lines else type(error).__name__
    if isinstance(error, StuckDecoderError):
        return "timeout", message
    if isinstance(error, NonFiniteLossError):
        return "nan", message
    text = str(error).lower()
    shortage = "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and shortage
    ):
        return "out-of-memory", message
    return "error", message


def facts_of(error: BaseException) -> dict[str, Any] | None:
    """Return what else is known of how a run ended, as a record's field ``failure``; None if nothing is."""
    if isinstance(error, (NonFiniteLossError, StuckDecoderError)):
        return error.facts
    if isinstance(error, StoppedError):
        # As if the signal itself had ended the process: the same command does the run again.
        return {"signal": signal.SIGTERM.name}
    return None
