"""The status, message and facts of a run that ended with an error."""

from __future__ import annotations

import signal
from typing import Any

from bench.io.errors import StoppedError, StuckDecoderError
from bench.training.nonfinite import NonFiniteLossError


def failure(error: BaseException) -> tuple[str, str]:
    """Return the status and the one-line message of a run that ended with ``error``."""
    import torch  # here, as the scheduler works without torch unless a run fails

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
    """Return further facts on how a run ended, as a record's field ``failure``; None if there are none."""
    if isinstance(error, (NonFiniteLossError, StuckDecoderError)):
        return error.facts
    if isinstance(error, StoppedError):
        # As if the signal itself had ended the process: the same command resumes the run.
        return {"signal": signal.SIGTERM.name}
    return None
