"""The findings of a results folder: sentences that follow from its tables, with their figures.

A difference is a finding if it has an interval. What papers report otherwise is said only of differences that
are separated.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.io.tables import escape_markdown
from bench.records.record import read_folder
from bench.report.analysis.bootstrap import Difference
from bench.report.analysis.convergence import LEAST_GAIN, LEAST_RUNS, source_text, with_doublings
from bench.report.analysis.differences import BASELINE, CONTROLS, baseline_of, with_differences
from bench.report.grouping import Comparison, comparisons

REPORTED_GAINS = {
    ("lofi", BASELINE): "LoFi's paper reports a gain over training the head alone",
    ("lofi-added", BASELINE): "LoFi's paper reports a gain over training the head alone",
    ("losa", BASELINE): "LoSA's paper reports a gain over training the head alone",
}
"""Pairs of strategies of which a paper reports that the first is better."""
PREFACE = (
    "Each sentence follows from the records by `python -m bench.report`. Points of average mAP, differences "
    "paired by seed, 95 % intervals. Separated: p below 5 % after Holm's correction, in each table over all "
    "rows' differences from head-only, over those of all strategies from all controls, and over those of "
    "each strategy's settings from its usual ones."
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One sentence, and the figures in it."""

    table: str
    """The title of the comparison."""
    kind: str
    """``over head-only``, ``over a control``, ``settings`` or ``convergence``."""
    first: str
    second: str
    sentence: str
    difference: Difference | None = None


def findings(results: Path) -> list[Finding]:
    """Return the findings of a results folder."""
    found = [
        with_differences(item, results) for item in comparisons(read_folder(results / "records").records)
    ]
    return findings_of(with_doublings(found))


def findings_of(items: Sequence[Comparison]) -> list[Finding]:
    """Return the findings of comparisons that have differences."""
    return [finding for item in items for finding in (*_differences(item), *_convergence(item))]


def _differences(item: Comparison) -> Iterator[Finding]:
    baseline = baseline_of(item)
    strategies = {row.label: row.strategy for row in item.rows}
    for (first, second), difference in item.differences.items():
        if difference.separated is None:
            continue
        kind = "settings"
        if baseline is not None and second == baseline.label:
            kind = "over head-only"
        elif strategies[second] in CONTROLS and strategies[first] != strategies[second]:
            kind = "over a control"
        text = f"{first} is {_points(difference)} {'above' if difference.mean >= 0 else 'below'} {second}"
        text += f" (95 % interval {difference.interval}, over {difference.over}; {difference.pairs} runs"
        text += f"; by source {source_text(difference)})" if difference.by_source else ")"
        text += ": separated." if difference.separated else ": not separated."
        reported = REPORTED_GAINS.get((strategies[first], strategies[second]))
        if reported and difference.separated and difference.mean < 0:
            text += f" This contradicts what was published: {reported}."
        yield Finding(item.title, kind, first, second, text, difference)


def _points(difference: Difference) -> str:
    return f"{abs(difference.mean):.1f} points"


def _convergence(item: Comparison) -> Iterator[Finding]:
    for label, (gained, runs) in item.doublings.items():
        if runs < LEAST_RUNS:
            text = f"{label} at {item.steps} steps: twice as many gain {gained:+.1f} points on tuning videos"
            text += " in 1 run, too few to say whether it has converged."
        else:
            state = "has converged" if gained < LEAST_GAIN else "has not converged"
            text = f"{label} {state} at {item.steps} steps: twice as many gain {gained:+.1f} points"
            text += f" on tuning videos ({runs} runs)."
        yield Finding(item.title, "convergence", label, "", text)


def contents(items: Sequence[Comparison]) -> dict[str, str]:
    """Return ``findings.json`` and ``findings.md`` by name; empty without findings."""
    found = findings_of(items)
    if not found:
        return {}
    plain = [_plain(finding) for finding in found]
    parts = [f"# Findings\n\n{PREFACE}"]
    for table in dict.fromkeys(finding.table for finding in found):
        lines = [f"- {escape_markdown(each.sentence)}" for each in found if each.table == table]
        parts.append("\n".join([f"## {escape_markdown(table)}\n", *lines]))
    return {
        "findings.json": json.dumps(plain, indent=1, ensure_ascii=False) + "\n",
        "findings.md": "\n\n".join(parts) + "\n",
    }


def _plain(finding: Finding) -> dict[str, object]:
    fields = dataclasses.asdict(finding)
    difference = fields.pop("difference")
    numbers = {name: _rounded(value) for name, value in (difference or {}).items()}
    separated = finding.difference.separated if finding.difference else None
    return {**fields, **numbers, "separated": separated}


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value
