"""The fingerprint of a checkpoint: its run, the torch version, and the source code that wrote it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
from pathlib import Path

import torch

from bench.io import PROJECT_ROOT
from strategies.base import Strategy

SCHEMA = 1
PACKAGES = ("bench", "strategies", "datasets")


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """The run, torch version and code that a checkpoint belongs to."""

    run: str
    torch: str
    code: str
    """Digest of the source code: other code may compute other bits."""
    schema: int = SCHEMA


def fingerprint_of(run: str, strategy: Strategy) -> Fingerprint:
    """Return the fingerprint of the checkpoints that this process writes for ``run``."""
    root = PROJECT_ROOT
    sources = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    with contextlib.suppress(TypeError, OSError):  # a strategy that was defined interactively has no file
        sources.append(Path(inspect.getfile(type(strategy))))
    digest = hashlib.sha256()
    for path in sources:
        digest.update(f"{path.name}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return Fingerprint(run, str(torch.__version__), digest.hexdigest())
