"""Timings of the parts: their inputs, one measurement, and processor seconds."""

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
    """What the parts are timed on."""

    scale: float = 1.0
    """Size of the inputs; bars hold at 1."""
    cache: Path | None = None
    """Folder for generated data; None for the usual one."""
    data: Path | None = None
    """Folder with ``detections`` and ``videos`` that are timed as well."""
    references: Path | None = None
    """Folder with ``nms.py`` and ``evaluation.py``, plain loops to compare with."""

    def reference(self, name: str) -> ModuleType | None:
        """Return a module of ``references``; None where no folder was given."""
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
        """Return the files of a folder of ``data``, sorted; none where no data was given."""
        return sorted((self.data / folder).glob(pattern)) if self.data else []


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
