"""The status, message and facts of a run that ended with an error."""

from __future__ import annotations

import re
import signal
from typing import Any

from bench.io.errors import StoppedError, StuckDecoderError
from bench.training.nonfinite import NonFiniteLossError

SHORTAGE = re.compile(
    "out of memory|can't allocate memory|not enough memory|oom trying to allocate|cudaerrormemoryallocation"
    # Statuses of cuBLAS, cuDNN, cuSOLVER, cuSPARSE, cuFFT (their headers) and the CUDA driver; NCCL.
    r"|cu[a-z]+_(status_)?\w*alloc(ation)?_failed|cuda_error_out_of_memory"
    r"|failed to cuda [a-z ]*alloc|ncclmemalloc failed"
)
"""In lower case, what an error says of a failed allocation, on a GPU or a CPU."""


def failure(error: BaseException) -> tuple[str, str]:
    """Return the status and the one-line message of a run that ended with ``error``."""
    import torch  # here, as the scheduler works without torch unless a run fails

    lines = str(error).strip().splitlines()
    message = f"{type(error).__name__}: {lines[0][:400]}" if lines else type(error).__name__
    if isinstance(error, StuckDecoderError):
        return "timeout", message
    if isinstance(error, NonFiniteLossError):
        return "nan", message
    shortage = isinstance(error, RuntimeError) and SHORTAGE.search(str(error).lower())
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or shortage:
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
