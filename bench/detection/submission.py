"""Read and write ground truth and detections as ActivityNet's JSON files, plain or gzipped.

Ground truth: ``{"database": {video: {"subset": s, "annotations": [{"segment": [a, b], "label": l}]}}}``;
detections: ``{"results": {video: [{"segment": [a, b], "label": l, "score": x}]}}``. Times are in seconds.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bench.detection.segments import Row, Segments, table_of
from bench.io.errors import InputError
from bench.io.reading import gc_paused, named_in_errors, read_json
from bench.io.text import is_name, printable
from bench.io.typed_values import A_NAME, FieldPath, Name, Seconds, fail, structure
from bench.io.writing import write_atomically

# ActivityNet's name of its file format; its own evaluator requires the key.
VERSION = "VERSION 1.3"
MAX_CHARACTERS = 2**28
"""Characters of a table's names, each counted as long as the longest: NumPy stores them so."""


FINITE = "seconds, a finite number"
Quoted = Annotated[Seconds | str, Meta(description=FINITE)]


class Instance(msgspec.Struct, gc=False):
    """A segment of ground truth, in seconds; AFSD's ground truth stores them as strings."""

    segment: tuple[Quoted, Quoted]
    label: Name


class Detection(msgspec.Struct, gc=False):
    """A detected segment, in seconds."""

    segment: tuple[Seconds, Seconds]
    label: Name
    score: Seconds


class Video(msgspec.Struct):
    """A video of ground truth; segments are checked only in the requested subset."""

    subset: str
    annotations: Any = ()


class GroundTruth(msgspec.Struct):
    """A file of ground truth."""

    database: dict[str, Video]


class Submission(msgspec.Struct):
    """A file of detections."""

    results: dict[str, list[Detection]]


def read_ground_truth(path: str | Path, subset: str) -> Segments:
    """Return the instances of ``subset``. Raises ``InputError``, one line, for an invalid file."""
    path = Path(path)
    rows: list[Row] = []
    with named_in_errors(path), gc_paused():
        found: GroundTruth = structure(GroundTruth, read_json(path))
        for video, entry in found.database.items():
            if entry.subset == subset:
                way = ("database", video, "annotations")
                rows.extend(_rows(way, video, structure(list[Instance], entry.annotations, way)))
    subsets = {entry.subset for entry in found.database.values()}
    if subset not in subsets:
        known = ", ".join(map(_name, sorted(subsets)[:20])) or "none"
        raise InputError(f"{path}: no subset {subset!r}, allowed are {known}")
    if not rows:
        raise InputError(f"{path}: subset {subset!r} has no annotations, allowed is at least one")
    return _table(rows, path, scored=False)


def read_videos(path: str | Path, subset: str) -> tuple[str, ...]:
    """Return the videos of ``subset`` in a file of ground truth, those without an instance too."""
    with named_in_errors(Path(path)):
        found: GroundTruth = structure(GroundTruth, read_json(Path(path)))
    return tuple(video for video, entry in found.database.items() if entry.subset == subset)


def read_submission(path: str | Path) -> Segments:
    """Return the detections of a file, in its order. Raises ``InputError``, one line, for an invalid file."""
    path = Path(path)
    rows: list[Row] = []
    with named_in_errors(path), gc_paused():
        found: Submission = structure(Submission, read_json(path))
        for video, entries in found.results.items():
            rows.extend(_rows(("results", video), video, entries))
    return _table(rows, path, scored=True)


def write_submission(
    path: str | Path, detections: Segments | Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Write detections atomically: a reader sees the old file or the complete new one.

    ``detections`` is a table with scores, or the value of ``results``. A file whose name ends in ``.gz`` is
    compressed. Equal detections give equal bytes: no time stamp is stored.
    """
    path = Path(path)
    results = _results(detections) if isinstance(detections, Segments) else detections
    document = {"version": VERSION, "results": results, "external_data": {}}
    content = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    write_atomically(path, content)


def _results(table: Segments) -> dict[str, list[dict[str, Any]]]:
    if table.score is None:
        raise InputError("detections: no scores, allowed is a score for each")
    results: dict[str, list[dict[str, Any]]] = {}
    columns = (each.tolist() for each in (table.video, table.label, table.start, table.end, table.score))
    for video, label, start, end, score in zip(*columns, strict=True):
        entry = {"segment": [start, end], "label": label, "score": score}
        results.setdefault(str(video), []).append(entry)
    return results


def _rows(way: FieldPath, video: str, entries: Sequence[Instance | Detection]) -> Iterator[Row]:
    if entries and not is_name(video):
        fail(video, way, A_NAME)
    for index, entry in enumerate(entries):
        start, end = entry.segment
        if isinstance(start, str) or isinstance(end, str):
            place = (*way, index, "segment")
            start, end = _unquoted(start, (*place, 0)), _unquoted(end, (*place, 1))
        if end < start:
            fail([start, end], (*way, index, "segment"), "an end not before the start")
        yield video, entry.label, start, end, entry.score if isinstance(entry, Detection) else 0.0


def _unquoted(value: float | str, way: FieldPath) -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(seconds := float(value)):
            return seconds
    fail(value, way, FINITE)


def _name(video: str) -> str:
    """Return a video's id, short enough for a one-line message."""
    return video if video.isprintable() and len(video) <= 80 else repr(printable(video, 80))


def _table(rows: list[Row], path: Path, scored: bool) -> Segments:
    longest = max((max(len(row[0]), len(row[1])) for row in rows), default=0)
    if len(rows) * longest > MAX_CHARACTERS:
        raise InputError(
            f"{path}: {len(rows):,} segments with names of up to {longest} characters, "
            f"allowed are {MAX_CHARACTERS // longest:,} of such names"
        )
    return table_of(rows, scored=scored)
