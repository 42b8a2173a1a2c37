"""Segments of one video as JSON and CSV, and the selection of those to display."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bench.detection.submission import VERSION
from bench.io.tables import plain_cell

SHOWN = 60
LEAST_SHARE = 0.1


class Segment(NamedTuple):
    """One detection: start and end in seconds, class label, score."""

    start: float
    end: float
    label: str
    score: float


def chosen(segments: Sequence[Segment], min_score: float, top: int | None) -> list[Segment]:
    """Return the segments with a score of at least ``min_score``, best first, at most ``top``."""
    ordered = sorted(segments, key=lambda each: -each.score)
    return [each for each in ordered if each.score >= min_score][:top]


def select_for_display(segments: Sequence[Segment]) -> list[Segment]:
    """Return the segments to display, best first.

    Leaves out segments that overlap a better one of the same class by more than half of the shorter one, and
    those below a tenth of the best score; returns at most ``SHOWN``. Soft-NMS leaves many low-scored copies.
    """
    kept: list[Segment] = []
    for each in sorted(segments, key=lambda each: -each.score):
        if len(kept) == SHOWN or each.score < LEAST_SHARE * (kept or [each])[0].score:
            break
        rivals = [other for other in kept if other.label == each.label]
        if not any(_shared(each, other) > 0.5 for other in rivals):
            kept.append(each)
    return kept


def _shared(first: Segment, other: Segment) -> float:
    """Return the overlap as a fraction of the shorter segment."""
    shorter = min(first.end - first.start, other.end - other.start)
    common = min(first.end, other.end) - max(first.start, other.start)
    return common / shorter if shorter > 0 else float(common >= 0)


def as_json(name: str, segments: Sequence[Segment], origin: Mapping[str, Any]) -> bytes:
    """Return an ActivityNet submission of one video, with its provenance under ``talbench``."""
    entries = [
        {"segment": [each.start, each.end], "score": each.score, "label": each.label} for each in segments
    ]
    document = {"version": VERSION, "results": {name: entries}, "external_data": {}, "talbench": origin}
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def as_csv(segments: Sequence[Segment]) -> bytes:
    """Return CSV with one line per segment: start and end in seconds, label, score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("start", "end", "label", "score"))
    writer.writerows((each.start, each.end, plain_cell(each.label), each.score) for each in segments)
    return text.getvalue().encode()
