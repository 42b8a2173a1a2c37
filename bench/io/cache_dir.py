"""The folder of what can be made again: generated videos, encodings, results of checks."""

import os
from pathlib import Path

from bench.io.errors import InputError


def default_cache_dir() -> Path:
    """Return the folder in TALBENCH_CACHE, else ~/.cache/talbench. It is not created here."""
    named = os.environ.get("TALBENCH_CACHE")
    if named:
        return Path(named).expanduser()
    try:
        return Path.home() / ".cache" / "talbench"
    except RuntimeError:
        raise InputError("TALBENCH_CACHE: not set, and there is no home folder to use instead") from None
