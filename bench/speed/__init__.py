"""Timings of the components: their inputs, measurements, and CPU time."""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Literal

from bench.io.errors import InputError


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Inputs of the timings."""

    scale: float = 1.0
    """Relative size of the inputs; the targets apply at 1."""
    cache: Path | None = None
    """Folder for generated data; None for the default."""
    data: Path | None = None
    """Folder with further inputs to time, in ``detections`` and ``videos``."""
    references: Path | None = None
    """Folder with ``nms.py`` and ``evaluation.py``, plain-loop implementations to compare with."""

    def reference(self, name: str) -> ModuleType | None:
        """Return a module of ``references``; None if no folder was given."""
        if self.references is None:
            return None
        path = self.references / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"reference_{name}", path)
        if spec is None or spec.loader is None or not path.is_file():
            raise InputError(f"--references: {self.references} holds no {name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def files(self, folder: str, pattern: str) -> list[Path]:
        """Return the sorted files of a folder of ``data``; empty if no folder was given."""
        return sorted((self.data / folder).glob(pattern)) if self.data else []


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One line of the table. ``bar`` is the target for ``value``; None if there is no target."""

    part: str
    what: str
    value: float
    unit: Literal["s", "x"]
    bar: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met: seconds must be at most ``bar``, ratios at least; None without one."""
        if self.bar is None:
            return None
        return self.value <= self.bar if self.unit == "s" else self.value >= self.bar


def seconds_of(action: Callable[[], object], repeats: int = 1) -> float:
    """Return the CPU time of ``action`` in seconds, the minimum over ``repeats``."""
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        action()
        taken.append(time.process_time() - started)
    return min(taken)
