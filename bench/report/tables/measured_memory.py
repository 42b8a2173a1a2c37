"""Read training steps measured by ``python -m bench.measure``, and tabulate them with their forecasts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from bench.io.errors import InputError
from bench.io.reading import MAX_RECORD_BYTES, named_in_errors, read_json, relative_message
from bench.io.tables import comma_separated, markdown
from bench.io.text import MAX_NAME_LENGTH, printable
from bench.io.typed_values import LIST, Name, Number, Positive, Text, Whole, structure
from bench.report.tables.forecasts import Forecast, gigabytes, parse

TITLE = "Measured memory of a training step"
PREFACE = (
    "Steps of `python -m bench.measure` on random weights and frames. Predicted peak: the forecast of the "
    "same step; error: what it is off the measured peak. Empty where the step failed. 1 GB is 10^9 bytes."
)


class MeasuredInference(msgspec.Struct):
    """Peak memory of inference."""

    peak_allocated_bytes: Positive


class Measured(msgspec.Struct):
    """Peak memory and time of a step, and the peak of inference."""

    peak_allocated_bytes: Positive
    seconds_per_step: Number
    inference: MeasuredInference | None = None


class Step(msgspec.Struct):
    """Fields of a file in addition to those of the forecast."""

    environment: dict[str, Any]
    status: str
    measured: Measured | None = None
    message: Any = None
    attention_kernels: Annotated[list[Name], LIST] | None = None
    """PyTorch's operations and CUDA's kernels of attention that ran in one more step, which is not timed."""
    attention_kernels_message: Text | None = None
    """Why that step gave none."""
    backbone_operations: Positive | None = None
    """Floating-point operations of a step's backbone, counted from shapes (``bench.measure.operations``)."""
    processes_beside: Whole | None = None
    """Processes that built models or traced forecasts on the host meanwhile; they may slow the steps down."""
    device_seconds: Number | None = None
    """Time of all steps on the device, its opening included."""


@dataclasses.dataclass(frozen=True)
class MeasuredStep:
    """A measured step and its forecast; peak and seconds are None if the step failed."""

    forecast: Forecast
    peak_bytes: int | None
    seconds_per_step: float | None
    device_name: str
    outcome: str
    """``ok``, or the status and its message."""
    inference_bytes: int | None = None
    """Peak of inference; None in rows of earlier versions."""


def read_steps(folder: Path) -> tuple[list[MeasuredStep], list[str]]:
    """Return the sorted rows of ``folder``, one per file, and a line for each invalid file."""
    steps, problems = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            steps.append(read_step(path))
        except InputError as error:
            problems.append(relative_message(error, path))
    return sorted(steps, key=lambda step: (step.forecast.key, step.device_name)), problems


def read_step(path: Path) -> MeasuredStep:
    """Return the row of a file; raise InputError that names the file and the field."""
    with named_in_errors(path):
        return _step(read_json(path, MAX_RECORD_BYTES, finite=True))


def _step(entry: Any) -> MeasuredStep:
    forecast = parse(entry)
    step: Step = structure(Step, entry)
    peak = step.measured.peak_allocated_bytes if step.measured else None
    seconds = step.measured.seconds_per_step if step.measured else None
    outcome = step.status if step.status == "ok" else f"{step.status}: {step.message}"
    device = printable(str(step.environment.get("device")), MAX_NAME_LENGTH)
    inference = step.measured.inference if step.measured else None
    inferred = inference.peak_allocated_bytes if inference else None
    return MeasuredStep(forecast, peak, seconds, device, outcome, inferred)


def cells(steps: Sequence[MeasuredStep]) -> tuple[list[str], list[list[str]]]:
    """Return header and text cells."""
    header = ["model", "strategy", "backward", "frames", "size (px)", "batch", "precision", "device"]
    header += ["measured peak (GB)", "predicted peak (GB)", "forecast error (%)"]
    header += ["measured inference peak (GB)", "predicted inference peak (GB)", "s/step", "outcome"]
    lines = []
    for step in steps:
        row = step.forecast
        line = [row.model, row.label, row.backward, str(row.frames), str(row.image_size), str(row.batch_size)]
        line += [row.precision, step.device_name]
        line += [gigabytes(step.peak_bytes), gigabytes(row.peak_bytes)]
        line.append("" if step.peak_bytes is None else f"{100 * (row.peak_bytes / step.peak_bytes - 1):+.2f}")
        line += [gigabytes(step.inference_bytes), gigabytes(row.inference_bytes)]
        line.append("" if step.seconds_per_step is None else f"{step.seconds_per_step:.3f}")
        lines.append([*line, step.outcome])
    return header, lines


def contents(steps: Sequence[MeasuredStep]) -> dict[str, str]:
    """Return the tables by file name; empty without rows."""
    if not steps:
        return {}
    return {
        "memory.csv": comma_separated(*cells(steps)),
        "memory.md": f"# {TITLE}\n\n{PREFACE}\n\n{markdown(*cells(steps), text_columns=3)}\n",
    }
