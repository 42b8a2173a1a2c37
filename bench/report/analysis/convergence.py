"""Whether rows have converged, and whether they are separated from head-only: columns of comparisons.

A row of N steps has converged if the row of 2 N steps, all else equal, gains less than one point of average
mAP on tuning videos at the end of training, over the seeds that both have.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.records.record import Record
from bench.records.tuning import shared_protocol
from bench.report.analysis.bootstrap import SEEDS, RunKey
from bench.report.analysis.differences import baseline_of
from bench.report.grouping import Comparison, Row, run_key

LEAST_GAIN = 1.0
"""Points on tuning videos that doubling the steps of a row gains if it has not converged."""
PREFACE = (
    "Intervals are of a paired bootstrap over seeds and test videos (and source weights, where a row has "
    "several), 10,000 draws; what seeds add is widened as Student's t is, as seeds are few. (seeds only) "
    "marks Student's t on the differences seed by seed, where detections are not kept. Separated: p below 5 "
    "% after Holm's correction over the rows of the table; the intervals are not corrected."
)
CONVERGENCE_PREFACE = (
    "Last half: points of average mAP on tuning videos gained in the second half of training, the learning "
    "rate's decay included. Converged: whether doubling the steps gains less than one point on them, with "
    "the gain; empty where no run of twice the steps is recorded."
)


def points(record: Record) -> list[Mapping[str, Any]]:
    """Return a run's evaluations on tuning videos during training; empty without any."""
    found: list[Mapping[str, Any]] = ((record.get("training") or {}).get("tuning") or {}).get("points") or []
    return found


def total_steps(record: Record) -> int:
    """Return the steps of all stages of a finished run."""
    return int(record["training"]["loss"][-1][0])


def at_fraction(record: Record, fraction: float) -> float | None:
    """Return average mAP on tuning videos, in percent, after that share of the steps; None if unknown."""
    wanted = max(1, round(fraction * total_steps(record)))
    return next((100 * float(p["map_average"]) for p in points(record) if p["step"] == wanted), None)


def last_half(record: Record) -> float | None:
    """Return what the second half of training gained on tuning videos, in points; None if unknown."""
    end, half = at_fraction(record, 1.0), at_fraction(record, 0.5)
    return None if end is None or half is None else end - half


def ends(row: Row) -> dict[RunKey, float]:
    """Return average mAP on tuning videos at the end of training, in percent, of the runs that have it."""
    found = ((run_key(record), at_fraction(record, 1.0)) for record in row.finished)
    return {key: end for key, end in found if end is not None}


def _settings_without_steps(comparison: Comparison, row: Row) -> str:
    protocol = shared_protocol(row.records[0])
    lengths = ("steps", "epochs")
    kept = {name: value for name, value in protocol.items() if name not in lengths}
    place = (comparison.dataset, comparison.variant, comparison.model, comparison.weights)
    return json.dumps([place, row.records[0]["strategy"], kept], sort_keys=True)


def with_doublings(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons with what doubling the steps gained, of the rows where it is recorded."""
    known: dict[tuple[str, int], dict[RunKey, float]] = {}
    for comparison in comparisons:
        for row in comparison.rows:
            if comparison.steps and (found := ends(row)):
                known.setdefault((_settings_without_steps(comparison, row), comparison.steps), {}).update(
                    found
                )
    result = []
    for comparison in comparisons:
        gains = {}
        for row in comparison.rows:
            if not comparison.steps or not (mine := ends(row)):
                continue
            key = _settings_without_steps(comparison, row)
            twice = known.get((key, 2 * comparison.steps), {})
            if common := sorted(mine.keys() & twice.keys()):
                gains[row.label] = statistics.fmean(twice[each] - mine[each] for each in common)
        result.append(dataclasses.replace(comparison, doublings=gains))
    return result


def converged(comparison: Comparison, row: Row) -> str:
    """Return whether a row has converged, with what doubling its steps gained; empty if unknown."""
    gained = comparison.doublings.get(row.label)
    return "" if gained is None else f"{'yes' if gained < LEAST_GAIN else 'no'} ({gained:+.1f})"


def columns(comparison: Comparison, row: Row) -> dict[str, Any]:
    """Return a row's cells on separation and convergence; each column is there if any row has it."""
    found: dict[str, Any] = {}
    baseline = baseline_of(comparison)
    if comparison.differences and baseline is not None:
        difference = comparison.differences.get((row.label, baseline.label))
        separated = difference.separated if difference else None
        found["separated"] = "" if separated is None else "separated" if separated else "not separated"
        found["interval over"] = difference.over if difference else ""
        found["p (Holm)"] = difference.adjusted if difference else None
    if any(points(record) for each in comparison.rows for record in each.finished):
        values = row.values(last_half)
        found["last half, tuning videos"] = statistics.fmean(values) if values else None
    if comparison.doublings:
        found["converged"] = converged(comparison, row)
    return found


def interval_text(comparison: Comparison, row: Row, text: str) -> str:
    """Return a row's interval with a mark if it covers seeds alone while the table's are of the bootstrap."""
    baseline = baseline_of(comparison)
    if baseline is None or not comparison.differences:
        return text
    difference = comparison.differences.get((row.label, baseline.label))
    return f"{text} (seeds only)" if difference and difference.over == SEEDS else text


def remarks(comparisons: Sequence[Comparison]) -> list[str]:
    """Return what the columns of some comparisons mean."""
    found = [PREFACE] if any(each.differences for each in comparisons) else []
    curves = any(points(r) for each in comparisons for row in each.rows for r in row.finished)
    return [*found, *([CONVERGENCE_PREFACE] if curves else [])]
