"""Columns of seconds per step: wall seconds, and processor seconds where runs on a CPU have them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import pandas as pd

from bench.records.record import Record
from bench.report.grouping import Comparison, Row

WALL, PROCESSOR = "s/step", "CPU s/step"


def wall_seconds(record: Record) -> float | None:
    """Return the wall seconds per step."""
    seconds: float | None = record["cost"]["seconds_per_step"]
    return seconds


def processor_seconds(record: Record) -> float | None:
    """Return the processor seconds per step of a run on a CPU; None elsewhere and for older records."""
    seconds: float | None = record["cost"].get("cpu_seconds_per_step")
    return seconds if record["memory"].get("meter") == "cpu-tensors" else None


def has_processor_seconds(rows: Iterable[Row]) -> bool:
    """Return whether any run has processor seconds."""
    return any(row.values(processor_seconds) for row in rows)


def timings(row: Row, *, processor: bool) -> dict[str, float | None]:
    """Return the columns of a row; the median, so that one run on a busy machine weighs little."""
    picked = {WALL: wall_seconds, **({PROCESSOR: processor_seconds} if processor else {})}
    values = {name: row.values(pick) for name, pick in picked.items()}
    return {name: statistics.median(found) if found else None for name, found in values.items()}


def shown_column(table: pd.DataFrame) -> str:
    """Return the column to print: processor seconds, if every row that was timed has them."""
    if PROCESSOR in table and (table[PROCESSOR].notna() | table[WALL].isna()).all():
        return PROCESSOR
    return WALL


def explanation(items: Iterable[Comparison]) -> str:
    """Return a sentence on processor seconds where a record has them, else nothing."""
    found = has_processor_seconds(row for item in items for row in item.rows)
    if not found:
        return ""
    return (
        f" {PROCESSOR}: the same in processor seconds of the training process; of frozen backbones without "
        "the encodings, which are computed once."
    )
