"""Ground truth and detections as ActivityNet's JSON files, plain or gzipped.

Ground truth: ``{"database": {video: {"subset": s, "annotations": [{"segment": [a, b], "label": l}]}}}``;
detections: ``{"results": {video: [{"segment": [a, b], "label": l, "score": x}]}}``. Times are in seconds.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.bounded_reading import read_json
from bench.detection.evaluation import Segments
from bench.errors import InputError
from bench.record import write_atomically
from bench.shown import LONGEST_NAME, is_name, printable, short

Row = tuple[str, str, float, float, float]
# How ActivityNet names its files' form; its own evaluator asks for the key.
VERSION = "VERSION 1.3"
MOST_CHARACTERS = 2**28
"""Of a table's names, each counted as long as the longest: so a table of text keeps them."""


def read_ground_truth(path: str | Path, subset: str) -> Segments:
    """Return the instances of ``subset``. Raises ``InputError``, one line, for any other file."""
    path = Path(path)
    database = _mapping(read_json(path), "database", path)
    rows: list[Row] = []
    subsets: set[str] = set()
    for video, entry in database.items():
        if not isinstance(entry, Mapping) or not isinstance(entry.get("subset"), str):
            raise InputError(
                f"{path}: database.{_name(video)}.subset: allowed is an object with a text 'subset'"
            )
        subsets.add(entry["subset"])
        if entry["subset"] == subset:
            annotations = entry.get("annotations", [])
            rows.extend(_rows(path, f"database.{_name(video)}.annotations", video, annotations, scored=False))
    if subset not in subsets:
        known = ", ".join(map(_name, sorted(subsets)[:20])) or "none"
        raise InputError(f"{path}: no subset {subset!r}, allowed are {known}")
    if not rows:
        raise InputError(f"{path}: subset {subset!r} has no annotations, allowed is at least one")
    return _table(rows, path, scored=False)


def read_submission(path: str | Path) -> Segments:
    """Return the detections of a file, in its order. Raises ``InputError``, one line, as above."""
    path = Path(path)
    results = _mapping(read_json(path), "results", path)
    rows: list[Row] = []
    for video, entries in results.items():
        rows.extend(_rows(path, f"results.{_name(video)}", video, entries, scored=True))
    return _table(rows, path, scored=True)


def write_submission(
    path: str | Path, detections: Segments | Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Write detections so that a reader sees the old file or the whole new one, never a part.

    ``detections`` is a table with scores, or what stands under ``results``. A name that ends in ``.gz`` is
    compressed. Equal detections give equal bytes: no time is stored.
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


def _mapping(document: Any, field: str, path: Path) -> Mapping[str, Any]:
    content = document.get(field) if isinstance(document, Mapping) else None
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: {field}: allowed is an object by video at the top of the file")
    return content


def _rows(path: Path, field: str, video: str, entries: Any, scored: bool) -> Iterator[Row]:
    if not isinstance(entries, list):
        raise InputError(f"{path}: {field}: allowed is a list of segments")
    if entries:
        _check_name(video, f"{path}: {field}")
    for index, entry in enumerate(entries):
        place = f"{path}: {field}[{index}]"
        if not isinstance(entry, Mapping):
            raise InputError(f"{place}: allowed is an object with segment and label")
        segment = entry.get("segment")
        if not scored and isinstance(segment, list):  # AFSD's ground truth quotes its seconds
            segment = [_unquoted(value) for value in segment]
        if not (isinstance(segment, list) and len(segment) == 2 and all(map(is_number, segment))):
            raise InputError(f"{place}.segment: {short(segment)}, allowed is [start, end] in finite seconds")
        if segment[1] < segment[0]:
            raise InputError(f"{place}.segment: {short(segment)}, allowed is an end not before the start")
        if not isinstance(entry.get("label"), str):
            raise InputError(f"{place}.label: {short(entry.get('label'))}, allowed is text")
        _check_name(entry["label"], f"{place}.label")
        score: Any = entry.get("score") if scored else 0.0
        if not is_number(score):
            raise InputError(f"{place}.score: {short(score)}, allowed is a finite number")
        yield video, entry["label"], float(segment[0]), float(segment[1]), float(score)


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a finite number."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _unquoted(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _name(video: str) -> str:
    """Return a video's id as a message of one line can hold it."""
    return video if video.isprintable() and len(video) <= 80 else repr(printable(video, 80))


def _check_name(name: str, place: str) -> None:
    """Raise InputError unless a table, a terminal and a file can hold the name of a video or a class."""
    if not is_name(name):
        raise InputError(
            f"{place}: {short(name)}, allowed are 1 to {LONGEST_NAME} characters, none of them a control"
        )


def _table(rows: list[Row], path: Path, scored: bool) -> Segments:
    longest = max((max(len(row[0]), len(row[1])) for row in rows), default=0)
    if len(rows) * longest > MOST_CHARACTERS:
        raise InputError(
            f"{path}: {len(rows):,} segments with names of up to {longest} characters, "
            f"allowed are {MOST_CHARACTERS // longest:,} of such names"
        )
    video, label, start, end, score = zip(*rows, strict=True) if rows else ((),) * 5
    return Segments(
        np.array(video, dtype=str),
        np.array(label, dtype=str),
        np.array(start, dtype=np.float64),
        np.array(end, dtype=np.float64),
        np.array(score, dtype=np.float64) if scored else None,
    )
