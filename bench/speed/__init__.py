"""What the parts of the bench are timed with: one measurement, processor seconds, plain references."""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Callable
from types import ModuleType
from typing import Literal

from bench.io import PROJECT_ROOT

BESIDE = PROJECT_ROOT.parent / "shared" / "data"
"""Published detections and real videos, where somebody has put them beside the checkout."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One line of the table. ``bar`` is what ``value`` is to keep; none where nothing is asked."""

    part: str
    what: str
    value: float
    unit: Literal["s", "x"]
    bar: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bar is kept: seconds are at most, ratios at least as large."""
        if self.bar is None:
            return None
        return self.value <= self.bar if self.unit == "s" else self.value >= self.bar


def seconds_of(action: Callable[[], object], repeats: int = 1) -> float:
    """Return the processor seconds of ``action``, the least of ``repeats``."""
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        action()
        taken.append(time.process_time() - started)
    return min(taken)


def load_reference(name: str) -> ModuleType | None:
    """Return a module of the tests' plain references; None outside of a checkout."""
    path = PROJECT_ROOT / "tests" / "reference" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"plain_{name}", path) if path.exists() else None
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
