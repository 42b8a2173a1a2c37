"""Which rows of a comparison are compared with which, and their differences with intervals.

Intervals cover seeds and test videos where the detections of all runs of both rows are there and give the
recorded mAP, else seeds alone. They are kept in ``bootstrap/`` of the results, by a digest of all that they
follow from, with a digest of their content.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.detection.resampling import match_run, resampled_map
from bench.detection.segments import Floats
from bench.detection.submission import read_ground_truth, read_submission, read_videos
from bench.io.errors import InputError
from bench.io.reading import MAX_RECORD_BYTES, file_sha256, read_json
from bench.io.writing import write_atomically
from bench.records.paths import detections_path, ground_truth_path
from bench.records.record import Record
from bench.report.analysis.bootstrap import (
    DRAWS,
    RUNS_SEED,
    VIDEOS_SEED,
    Difference,
    RunKey,
    bootstrap_difference,
    seed_difference,
)
from bench.report.grouping import Comparison, Row, average, run_key
from bench.report.significance import holm
from strategies import NAMED_GROUPS, build_strategy, installed
from strategies.base import settings

VERSION = 2
"""To be raised when the method changes, so that kept intervals are computed again."""
BASELINE = "head-only"
CONTROLS = (*NAMED_GROUPS["controls"], "capacity-control")
TOLERANCE_POINTS = 1e-4
Pair = tuple[str, str]


def baseline_of(comparison: Comparison) -> Row | None:
    """Return the head-only row, of several the usual one; None without one."""
    rows = [row for row in comparison.rows if row.strategy == BASELINE]
    finished = [row for row in rows if row.finished]
    return usual_row(finished or rows) if rows else None


def usual_row(rows: Sequence[Row]) -> Row:
    """Return the row of one strategy that others are compared with.

    The one whose settings were chosen in recorded trials, else the one with the strategy's defaults, else the
    one without a setting in its label, else the first.
    """
    chosen = [row for row in rows if row.records[0].get("tuning")]
    default = [row for row in rows if row.records[0]["strategy"] == default_settings(row.strategy)]
    plain = [row for row in rows if row.label == row.strategy]
    return next(iter([*chosen, *default, *plain, *rows]))


@functools.cache
def default_settings(strategy: str) -> Any:
    """Return a strategy's default settings, in the format of records; None if it is not installed."""
    if strategy not in installed():
        return None
    return json.loads(json.dumps(settings(build_strategy(strategy))))


def families(comparison: Comparison) -> list[list[tuple[Row, Row]]]:
    """Return the pairs of rows that are compared, in families that Holm's correction is over.

    All rows with head-only, controls and other settings included; all rows of other strategies with each
    control; the rows of each strategy that ran with several settings with its usual one.
    """
    rows, baseline = [row for row in comparison.rows if row.finished], baseline_of(comparison)
    found = []
    if baseline is not None:
        found.append([(row, baseline) for row in rows if row is not baseline])
    controls = [row for row in rows if row.strategy in CONTROLS]
    found.append(
        [(row, control) for row in rows for control in controls if row.strategy not in (BASELINE, *CONTROLS)]
    )
    for name in dict.fromkeys(row.strategy for row in rows):
        own = [row for row in rows if row.strategy == name]
        found.append([(row, usual) for row in own if row is not (usual := usual_row(own))])
    return [family for family in found if family]


def with_differences(comparison: Comparison, results: Path) -> Comparison:
    """Return the comparison with the differences between its rows; keeps intervals in ``results``."""
    groups = families(comparison)
    rows = {row.label: row for group in groups for pair in group for row in pair}
    wanted = [(row.label, other.label) for group in groups for row, other in group]
    kept = _kept(results, comparison, rows, wanted)
    found: dict[Pair, Difference] = {}
    for group in groups:
        pairs = [(row.label, other.label) for row, other in group]
        known = [each for pair in pairs if (each := kept.get(pair)) is not None and each.p is not None]
        adjusted = dict(
            zip(map(id, known), holm([each.p for each in known if each.p is not None]), strict=True)
        )
        for pair in pairs:
            if (each := kept.get(pair)) is not None:
                found[pair] = dataclasses.replace(each, adjusted=adjusted.get(id(each)))
    return dataclasses.replace(comparison, differences=found)


def _kept(
    results: Path, comparison: Comparison, rows: Mapping[str, Row], wanted: Sequence[Pair]
) -> dict[Pair, Difference]:
    """Return the differences without Holm's correction, from the file of kept ones if they are there."""
    digest, path = _digest(results, rows, wanted), results / "bootstrap" / f"{comparison.slug}.json"
    if digest is not None and path.is_file():
        try:
            content = read_json(path, MAX_RECORD_BYTES, finite=True)
            if content["digest"] == digest and content["content_sha256"] == _content_sha256(content):
                return {(a, b): Difference(**fields) for a, b, fields in content["differences"]}
        except (InputError, KeyError, TypeError, ValueError):
            pass  # a damaged file is written again
    resampled = {} if digest is None else resampled_runs(results, rows.values())
    found = {pair: each for pair in wanted if (each := _difference(*pair, rows, resampled)) is not None}
    if any(each.over.startswith("seeds, videos") for each in found.values()):
        listed = [[*pair, dataclasses.asdict(each)] for pair, each in found.items()]
        content = {"digest": digest, "draws": DRAWS, "differences": listed}
        text = json.dumps({**content, "content_sha256": _content_sha256(content)}, indent=1)
        write_atomically(path, text.encode())
    return found


def _content_sha256(content: Mapping[str, Any]) -> str:
    """Return the digest of a file of kept intervals, without that field."""
    kept = {name: value for name, value in content.items() if name != "content_sha256"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def edited_intervals(results: Path) -> list[str]:
    """Return one line for each file of kept intervals whose content is not what was written."""
    found = []
    for path in sorted((results / "bootstrap").glob("*.json")):
        try:
            content = read_json(path, MAX_RECORD_BYTES, finite=True)
            if content["content_sha256"] == _content_sha256(content):
                continue
        except (InputError, KeyError, TypeError):
            pass
        found.append(f"bootstrap/{path.name}: field 'content_sha256' is not that of the intervals")
    return found


def _digest(results: Path, rows: Mapping[str, Row], wanted: Sequence[Pair]) -> str | None:
    """Return the digest of all that the intervals follow from; None if no run has detections."""
    parts: list[Any] = [VERSION, DRAWS, VIDEOS_SEED, RUNS_SEED, list(map(list, wanted))]
    there = False
    for label, row in rows.items():
        for record in row.finished:
            path, truth = detections_path(results, record["id"]), ground_truth_path(results, record)
            hashes = [file_sha256(each) if each.is_file() else None for each in (path, truth)]
            there = there or None not in hashes
            parts.append([label, record["id"], *run_key(record), average(record), *hashes])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest() if there else None


def _difference(
    label: str, other: str, rows: Mapping[str, Row], resampled: Mapping[str, Floats]
) -> Difference | None:
    by_seed = seed_difference(rows[label].averages, rows[other].averages)
    if by_seed is None:
        return None
    common = rows[label].averages.keys() & rows[other].averages.keys()
    found: list[dict[RunKey, Floats]] = []
    for row in (rows[label], rows[other]):
        mine = {run_key(record): record["id"] for record in row.finished}
        if any(mine[key] not in resampled for key in common):
            return by_seed
        found.append({key: resampled[mine[key]] for key in common})
    return bootstrap_difference(found[0], found[1], by_seed) or by_seed


def resampled_runs(results: Path, rows: Any) -> dict[str, Floats]:
    """Return (B,) points of average mAP in the resamples of test videos, of each run with detections, by id.

    A run whose detections do not give the recorded mAP is left out.
    """
    found: dict[str, Floats] = {}
    truths: dict[Path, Any] = {}
    for record in (record for row in rows for record in row.finished):
        path, truth = detections_path(results, record["id"]), ground_truth_path(results, record)
        if not (path.is_file() and truth.is_file()):
            continue
        try:
            if truth not in truths:
                truths[truth] = _truth(truth, record)
            points = _resampled(path, record, *truths[truth])
        except InputError:
            continue
        if points is not None:
            found[record["id"]] = points
    return found


def _truth(path: Path, record: Record) -> tuple[Any, tuple[str, ...], Any]:
    """Return the instances, the videos, and the multiplicities of videos in all draws."""
    subset = record["protocol"]["evaluation_subset"]
    videos = read_videos(path, subset)
    random = np.random.Generator(np.random.PCG64(VIDEOS_SEED))
    draws = random.multinomial(len(videos), np.full(len(videos), 1 / len(videos)), size=DRAWS)
    return read_ground_truth(path, subset), videos, draws


def _resampled(path: Path, record: Record, truth: Any, videos: Sequence[str], draws: Any) -> Floats | None:
    run = match_run(truth, read_submission(path), tuple(record["protocol"]["tiou"]), videos)
    once = 100 * resampled_map(run, np.ones((1, len(videos)), dtype=np.int64))[0]
    if abs(once - average(record)) > TOLERANCE_POINTS:
        return None
    points: Floats = 100 * resampled_map(run, draws)
    return points
