"""Ablation tables: one for each strategy that ran with several settings."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from bench.io.tables import bold_best, comma_separated, escape_markdown, latex, markdown
from bench.report.analysis.bootstrap import SEEDS
from bench.report.analysis.differences import BASELINE, usual_row
from bench.report.grouping import Comparison, Row, differing_fields
from bench.report.tables.comparison import cells as comparison_cells
from bench.report.tables.timing import PROCESSOR, WALL

PREFACE = (
    "One strategy under several settings, beside head-only; the fields that differ have columns. Gain: "
    "average mAP over head-only, paired by seed. All else as in the comparison of the same protocol."
)
SHOWN = ("n", "average mAP (%)", "gain", "95 % interval", "training peak (MB)")
BEST = ("average mAP (%)", "gain")
DIFFERENCE = ("difference", "its 95 % interval", "is it separated")
DIFFERENCE_PREFACE = (
    " Difference: average mAP less that of the strategy's usual settings (those chosen in tuning trials, "
    "else the defaults), paired by seed, with the 95 % interval of the bootstrap over seeds and test videos. "
    "Is it separated: whether its p is below 5 % after Holm's correction over these differences."
)


@dataclasses.dataclass(frozen=True)
class Ablation:
    """The rows of one strategy in a comparison."""

    comparison: Comparison
    strategy: str
    fields: tuple[str, ...]
    """The settings that differ between the rows."""
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        return f"Settings of {self.strategy}: {self.comparison.title}"

    @property
    def file_name(self) -> str:
        name = re.sub(r"[^A-Za-z0-9-]+", "-", self.strategy)
        return f"ablation_{name}_{self.comparison.slug}"


def ablations(comparison: Comparison) -> list[Ablation]:
    """Return an ablation for each strategy that has rows with different settings."""
    found = []
    for name in dict.fromkeys(row.strategy for row in comparison.rows):
        rows = tuple(row for row in comparison.rows if row.strategy == name)
        if fields := differing_fields([row.records[0]["strategy"] for row in rows]):
            found.append(Ablation(comparison, name, tuple(fields), rows))
    return found


def cells(item: Ablation) -> tuple[list[str], list[list[str]]]:
    """Return header and text cells: head-only, then the strategy with its settings."""
    baseline = tuple(row for row in item.comparison.rows if row.strategy == BASELINE)
    rows = item.rows if item.strategy == BASELINE else (*baseline, *item.rows)
    header, lines = comparison_cells(dataclasses.replace(item.comparison, rows=rows), thresholds=False)
    shown = (*SHOWN, WALL if WALL in header else PROCESSOR, "trainable")
    kept = [header.index(name) for name in shown]
    found = []
    for row, line in zip(rows, lines, strict=True):
        own = row.strategy == item.strategy
        settings = row.records[0]["strategy"]
        values = [_text(settings.get(field, "default")) if own else "" for field in item.fields]
        found.append([row.strategy, *values, *(line[i] for i in kept), *_difference(item, row)])
    more = DIFFERENCE if item.comparison.differences else ()
    return ["strategy", *item.fields, *shown, *more], found


def _difference(item: Ablation, row: Row) -> list[str]:
    """Return a row's difference from the strategy's usual row, its interval, and whether it is separated."""
    if not item.comparison.differences:
        return []
    found = item.comparison.differences.get((row.label, usual_row(item.rows).label))
    if found is None or row.strategy != item.strategy:
        return ["", "", ""]
    only = " (seeds only)" if found.over == SEEDS else ""
    separated = "" if found.separated is None else "separated" if found.separated else "not separated"
    return [f"{found.mean:+.1f}", found.interval + only, separated]


def _text(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "all"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def preface(item: Ablation) -> str:
    """Return what the columns mean."""
    return PREFACE + (DIFFERENCE_PREFACE if item.comparison.differences else "")


def contents(comparisons: Sequence[Comparison]) -> dict[str, str]:
    """Return the tables of all ablations by file name: CSV, markdown and LaTeX."""
    result = {}
    for comparison in comparisons:
        for item in ablations(comparison):
            header, lines = cells(item)
            best, columns = bold_best(header, lines, BEST), 1 + len(item.fields)
            result[f"{item.file_name}.csv"] = comma_separated(header, lines)
            table = markdown(header, lines, columns, best)
            result[f"{item.file_name}.md"] = (
                f"# {escape_markdown(item.title)}\n\n{preface(item)}\n\n{table}\n"
            )
            result[f"{item.file_name}.tex"] = latex(header, lines, f"{item.title}.", columns, best)
    return result
