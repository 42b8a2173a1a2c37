"""Tables of segments: ground truth and detections."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.io.errors import InputError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Names = NDArray[Any]
Row = tuple[str, str, float, float, float]
"""Video, label, start, end, score."""
DUPLICATE_SECONDS = 1e-3


@dataclasses.dataclass(frozen=True)
class Segments:
    """A table of n segments, one column per field. Times are in seconds; only detections have a ``score``."""

    video: Names
    label: Names
    start: Floats
    end: Floats
    score: Floats | None = None

    def __post_init__(self) -> None:
        columns = [self.label, self.start, self.end] + ([] if self.score is None else [self.score])
        if any(np.shape(column) != (len(self.video),) for column in columns):
            shapes = [np.shape(column) for column in (self.video, *columns)]
            raise InputError(f"segments: columns of shapes {shapes}, allowed are columns of one length")

    def __len__(self) -> int:
        return len(self.video)


def table_of(rows: Sequence[Row], *, scored: bool) -> Segments:
    """Return rows (video, label, start, end, score) as a table; without ``scored``, scores are left out."""
    video, label, start, end, score = zip(*rows, strict=True) if rows else ((),) * 5
    return Segments(
        np.array(video, dtype=str),
        np.array(label, dtype=str),
        np.array(start, dtype=np.float64),
        np.array(end, dtype=np.float64),
        np.array(score, dtype=np.float64) if scored else None,
    )


def codes(values: Names, known: Names) -> Indices:
    """Return the index of every value in the sorted ``known``, or -1."""
    table = {name: index for index, name in enumerate(known.tolist())}
    return np.fromiter((table.get(value, -1) for value in np.asarray(values).tolist()), np.int64, len(values))


def duplicates(table: Segments) -> NDArray[np.bool_]:
    """Return (n,): whether a row repeats an earlier one.

    It does if an earlier row that is no duplicate itself has the same video and label, and both its
    boundaries are within a millisecond.
    """
    result = np.zeros(len(table), dtype=bool)
    # Kept rows by cell; with neighbouring cells this finds all within the tolerance in constant time.
    kept: dict[tuple[str, str, float, float], list[tuple[float, float]]] = {}
    cell = 2 * DUPLICATE_SECONDS
    columns = (each.tolist() for each in (table.video, table.label, table.start, table.end))
    for index, (video, label, start, end) in enumerate(zip(*columns, strict=True)):
        near = (
            other
            for row in (-1, 0, 1)
            for column in (-1, 0, 1)
            for other in kept.get((video, label, start // cell + row, end // cell + column), ())
        )
        if any(abs(start - a) <= DUPLICATE_SECONDS and abs(end - b) <= DUPLICATE_SECONDS for a, b in near):
            result[index] = True
        else:
            kept.setdefault((video, label, start // cell, end // cell), []).append((start, end))
    return result


def without_duplicates(ground_truth: Segments) -> Segments:
    """Return the ground truth as OpenTAD evaluates it: without empty and repeated instances, in its order.

    Source: ``remove_duplicate_annotations`` (OpenTAD, opentad/evaluations/builder.py), after the function of
    that name in ActionFormer's libs/utils/metrics.py. First the instances whose end is not after their start
    are left out, then the duplicates (``duplicates``). Differs: ActionFormer's also leaves out instances
    shorter than a millisecond, which OpenTAD keeps. Raises InputError if nothing is left.
    """
    left = _rows(ground_truth, np.asarray(ground_truth.end) - np.asarray(ground_truth.start) > 0)
    left = _rows(left, ~duplicates(left))
    if len(left) == 0:
        raise InputError("ground truth: all instances are of zero length, allowed is at least one longer")
    return left


def _rows(table: Segments, chosen: NDArray[np.bool_]) -> Segments:
    score = None if table.score is None else table.score[chosen]
    return Segments(table.video[chosen], table.label[chosen], table.start[chosen], table.end[chosen], score)
