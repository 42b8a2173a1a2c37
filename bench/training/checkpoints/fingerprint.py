"""What a checkpoint belongs to: a run, a torch, and the source code that wrote it."""

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
    """What a checkpoint belongs to."""

    run: str
    torch: str
    code: str
    """Digest of the sources: other code may compute other bits."""
    schema: int = SCHEMA


def fingerprint_of(run: str, strategy: Strategy) -> Fingerprint:
    """Return the owner of the checkpoints that this process writes for ``run``."""
    root = PROJECT_ROOT
    sources = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    with contextlib.suppress(TypeError, OSError):  # a strategy that was typed in has no file
        sources.append(Path(inspect.getfile(type(strategy))))
    digest = hashlib.sha256()
    for path in sources:
        digest.update(f"{path.name}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return Fingerprint(run, str(torch.__version__), digest.hexdigest())
