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
from bench.report.analysis.bootstrap import SEEDS, Difference, RunKey
from bench.report.analysis.differences import BASELINE, baseline_of, default_settings
from bench.report.grouping import Comparison, Row, run_key

LEAST_GAIN = 1.0
"""Points on tuning videos that doubling the steps of a row gains if it has not converged."""
LEAST_RUNS = 2
"""Runs of both lengths from which on a row is said to have converged or not."""
PREFACE = (
    "Intervals are of a paired bootstrap with 10,000 draws: test videos and seeds are drawn again with "
    "repetition, the same for both rows. As few seeds vary too little when drawn so, their share of the "
    "interval is made wider, as for Student's t. Rows over several source weights: with fewer than five, "
    "the interval is for these checkpoints, and p is the largest over the sources, each alone; from five "
    "on, sources are drawn as well. (seeds only) marks Student's t on the differences seed by seed, where "
    "detections of a run are not kept or do not give its recorded mAP. Separated: p below 5 % after Holm's "
    "correction over the differences of all rows of the table from head-only, controls and other settings "
    "included; the intervals are not corrected."
)
CONVERGENCE_PREFACE = (
    "Last half: average mAP on tuning videos at the end of training less that after half of the steps, in "
    "points; the learning rate falls meanwhile, so that a gain there does not mean that more steps would "
    "gain as much. It is empty where the two are of different stages. Converged: whether doubling the steps "
    'gains less than one point on tuning videos, with the gain and the number n of runs; "1 run" says that '
    "one is too few to tell; empty where no run of twice the steps is recorded."
)


def points(record: Record) -> list[Mapping[str, Any]]:
    """Return a run's evaluations on tuning videos during training; empty without any."""
    found: list[Mapping[str, Any]] = ((record.get("training") or {}).get("tuning") or {}).get("points") or []
    return found


def total_steps(record: Record) -> int:
    """Return the steps of all stages of a finished run."""
    return int(record["training"]["loss"][-1][0])


def point_at(record: Record, fraction: float) -> Mapping[str, Any] | None:
    """Return the evaluation on tuning videos after that share of the steps; None without it."""
    wanted = max(1, round(fraction * total_steps(record)))
    return next((point for point in points(record) if point["step"] == wanted), None)


def at_fraction(record: Record, fraction: float) -> float | None:
    """Return average mAP on tuning videos, in percent, after that share of the steps; None if unknown."""
    point = point_at(record, fraction)
    return None if point is None else 100 * float(point["map_average"])


def last_half(record: Record) -> float | None:
    """Return what the second half of training gained on tuning videos, in points.

    None if it is unknown, or if the two evaluations are of different stages.
    """
    end, half = point_at(record, 1.0), point_at(record, 0.5)
    if end is None or half is None or end["stage"] != half["stage"]:
        return None
    return 100 * (float(end["map_average"]) - float(half["map_average"]))


def ends(row: Row) -> dict[RunKey, float]:
    """Return average mAP on tuning videos at the end of training, in percent, of the runs that have it."""
    found = ((run_key(record), at_fraction(record, 1.0)) for record in row.finished)
    return {key: end for key, end in found if end is not None}


def _settings_without_steps(comparison: Comparison, row: Row) -> str:
    protocol = shared_protocol(row.records[0])
    lengths = ("steps", "epochs")
    kept = {name: value for name, value in protocol.items() if name not in lengths}
    annotations = row.records[0]["dataset"].get("annotation_sha256")
    data = (comparison.dataset, comparison.variant, annotations)
    place = (*data, comparison.model, comparison.weights, comparison.device)
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
                gained = statistics.fmean(twice[each] - mine[each] for each in common)
                gains[row.label] = (gained, len(common))
        result.append(dataclasses.replace(comparison, doublings=gains))
    return result


def converged(comparison: Comparison, row: Row) -> str:
    """Return whether a row has converged, with what doubling its steps gained and over how many runs.

    It is empty if that is unknown, and without yes or no for a single run.
    """
    if row.label not in comparison.doublings:
        return ""
    gained, runs = comparison.doublings[row.label]
    if runs < LEAST_RUNS:
        return f"1 run ({gained:+.1f})"
    return f"{'yes' if gained < LEAST_GAIN else 'no'} ({gained:+.1f}, n = {runs})"


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
        if any(each.by_source for each in comparison.differences.values()):
            found["gain by source"] = source_text(difference)
    if any(points(record) for each in comparison.rows for record in each.finished):
        values = row.values(last_half)
        found["last half, tuning videos"] = statistics.fmean(values) if values else None
    if comparison.doublings:
        found["converged"] = converged(comparison, row)
    return found


def source_text(difference: Difference | None) -> str:
    """Return the gain of each source as text, such as ``93693475 +3.1, d0181f45 +2.4``."""
    sources = difference.by_source if difference else {}
    return ", ".join(f"{source} {gained:+.1f}" for source, gained in sources.items())


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


def baseline_lines(comparison: Comparison) -> list[str]:
    """Return which head-only row the gains are over, if there are several."""
    rows = [row for row in comparison.rows if row.strategy == BASELINE]
    baseline = baseline_of(comparison)
    if baseline is None or len(rows) < 2:
        return []
    why = "its settings were chosen in tuning trials"
    if not baseline.records[0].get("tuning"):
        usual = baseline.records[0]["strategy"] == default_settings(baseline.strategy)
        why = "it has the default settings" if usual else "no row has chosen or default settings"
    return [f"Gains are over the row {baseline.label}, of {len(rows)} head-only rows: {why}."]
