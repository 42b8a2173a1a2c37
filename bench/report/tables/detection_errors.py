"""Detection errors of the strategies of a comparison: figures and a table."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bench.detection.diagnosis import KINDS, MULTIPLES
from bench.io.tables import comma_separated, escape_markdown, markdown
from bench.records.record import Record
from bench.report.figures.style import HATCHES, canvas, looks, save
from bench.report.grouping import Comparison, Row

MAX_PANELS = 7
"""Maximum number of panels in one line of a figure."""
KIND_COLOURS = ("#009E73", "#56B4E9", "#CC79A7", "#E69F00", "#D55E00", "#7F7F7F")
"""In the order of KINDS; hatches distinguish the kinds in black-and-white print."""


PREFACE = (
    "After DETAD: what the best detections are, as many of a class as it has instances; what average mAP "
    "would gain, in points, without the errors of a kind; and the share of instances missed, by length. "
    "Means over n seeds and the protocol's thresholds above 0.1."
)


def diagnosed(comparison: Comparison) -> list[Row]:
    """Return the rows with at least one finished run that was diagnosed."""
    return [row for row in comparison.rows if any(record.get("diagnosis") for record in row.finished)]


Pick = Callable[[Record], float | None]


def mean(row: Row, pick: Pick) -> float | None:
    """Return the mean of ``pick`` over a row's diagnosed runs; None if no run has a value."""
    known = row.values(pick)
    return statistics.fmean(known) if known else None


@functools.cache
def share(kind: str, multiple: int = 0) -> Pick:
    """Return a function of a record: a kind's share, in percent, of the ``multiple + 1``-th G detections.

    G is the number of instances.
    """

    def pick(record: Record) -> float | None:
        diagnosis = record.get("diagnosis")
        part = diagnosis["false_positives"][multiple] if diagnosis else {}
        return 100 * float(part[kind]) if part.get("detections") else None

    return pick


@functools.cache
def missed(group: str | None) -> Pick:
    """Return a function of a record: the missed instances, in percent, of a length group or of all."""

    def pick(record: Record) -> float | None:
        found = (record.get("diagnosis") or {}).get("false_negatives", {"all": {}})
        entry = found["all"] if group is None else found.get("length_seconds", {}).get(group, {})
        return 100 * float(entry["missed"]) if entry.get("missed") is not None else None

    return pick


@functools.cache
def gained(kind: str) -> Pick:
    """Return a function of a record: the gain in average mAP, in points, without errors of a kind."""

    def pick(record: Record) -> float | None:
        diagnosis = record.get("diagnosis")
        return 100 * float(diagnosis["gain"][kind]) if diagnosis else None

    return pick


def lengths(rows: Sequence[Row]) -> dict[str, tuple[str, int]]:
    """Return the non-empty length groups of instances: the range as text, and the number of instances."""
    found: dict[str, tuple[str, int]] = {}
    for row in rows:
        for record in row.finished:
            low = ""
            parts = (record.get("diagnosis") or {}).get("false_negatives", {}).get("length_seconds", {})
            for group, entry in parts.items():
                sign, _, bound = group.partition(" ")
                title = f"{low} to {bound} s" if low and sign == "<=" else f"{group} s"
                low = bound
                if entry["instances"]:
                    found.setdefault(group, (title, int(entry["instances"])))
    return found


def draw(comparison: Comparison, results: Path) -> list[Path]:
    """Draw the figures of a comparison with diagnosed runs and return the files; none otherwise."""
    rows = diagnosed(comparison)
    if not rows:
        return []
    base = results / "figures" / comparison.slug
    files = false_positives(rows, base.with_name(f"{base.name}_false-positives"))
    return files + false_negatives(rows, base.with_name(f"{base.name}_false-negatives"))


def false_positives(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw the kinds of detections in groups of G by rank (G is the number of instances), a panel per row."""
    lines = -(-len(rows) // MAX_PANELS)
    columns = -(-len(rows) // lines)
    width, height = max(4.0, 1.55 * columns + 0.9), 1.1 + 2.0 * lines
    with canvas(width, height, columns, lines) as (figure, axes):
        panels = np.ravel(axes)
        for spare in panels[len(rows) :]:
            spare.set_axis_off()
        for panel, row in zip(panels[: len(rows)], rows, strict=True):
            below = [0.0] * MULTIPLES
            for kind, colour, hatch in zip(KINDS, KIND_COLOURS, HATCHES, strict=False):
                heights = [mean(row, share(kind, multiple)) or 0.0 for multiple in range(MULTIPLES)]
                panel.bar(
                    range(1, MULTIPLES + 1),
                    heights,
                    bottom=below,
                    width=0.85,
                    color=colour,
                    edgecolor="white",
                    linewidth=0.3,
                    hatch=hatch,
                    label=kind,
                )
                below = [low + height for low, height in zip(below, heights, strict=True)]
            panel.set_title(f"{row.label}\n(n = {len(row.finished)})", fontsize=8)
            panel.set_xticks([1, 5, 10], ["1", "5", "10"])
            panel.set_ylim(0, 100)
        for first in panels[: len(rows) : columns]:
            first.set_ylabel("share of the detections (%)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.supxlabel("the best detections, in groups of as many as there are instances", fontsize=9)
        figure.legend(handles, labels, loc="outside upper center", ncols=3 if columns < 4 else 6, fontsize=7)
        return save(figure, path)


def false_negatives(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw the share of instances that each row misses, by instance length in seconds."""
    groups = lengths(rows)
    width = 0.8 / len(rows)
    with canvas(6.0, 3.2) as (figure, axes):
        for number, (row, look) in enumerate(zip(rows, looks([row.strategy for row in rows]), strict=True)):
            values = [mean(row, missed(group)) for group in (None, *groups)]
            axes.bar(
                [place + (number - (len(rows) - 1) / 2) * width for place in range(len(values))],
                [math.nan if value is None else value for value in values],
                width=width,
                color=look.colour,
                edgecolor="white",
                linewidth=0.3,
                hatch=HATCHES[number % len(HATCHES)],
                label=f"{row.label} (n = {len(row.finished)})",
            )
        counts = [("all", sum(count for _, count in groups.values())), *groups.values()]
        names = [f"{title}\n({count})" for title, count in counts]
        axes.set_xticks(range(len(names)), names)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("length of an instance (number of instances)")
        axes.set_ylabel("missed instances (%)")
        figure.legend(loc="outside upper center", ncols=3, fontsize=7)
        return save(figure, path)


def cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return header and text cells of a comparison's diagnosed rows; means over seeds, in percent."""
    rows = diagnosed(comparison)
    groups = lengths(rows)
    header = ["strategy", "n", *(f"{kind} (%)" for kind in KINDS)]
    header += [f"gain without {kind}" for kind in KINDS[1:]]
    header += ["missed (%)", *(f"missed, {title} (%)" for title, _ in groups.values())]
    lines = []
    for row in rows:
        count = sum(bool(record.get("diagnosis")) for record in row.finished)
        values = [mean(row, share(kind)) for kind in KINDS]
        values += [mean(row, gained(kind)) for kind in KINDS[1:]]
        values += [mean(row, missed(group)) for group in (None, *groups)]
        lines.append([row.label, str(count), *("" if v is None else f"{v:.1f}" for v in values)])
    return header, lines


def contents(comparisons: Sequence[Comparison]) -> dict[str, str]:
    """Return the text of the tables by file name: one markdown file, and a CSV file for each comparison."""
    items = [item for item in comparisons if diagnosed(item)]
    if not items:
        return {}
    parts = [f"# Detection errors\n\n{PREFACE}"]
    result = {}
    for item in items:
        title = f"## {escape_markdown(item.title)}\n\nDevice: {escape_markdown(item.device)}"
        parts.append(f"{title}\n\n{markdown(*cells(item))}")
        result[f"errors_{item.slug}.csv"] = comma_separated(*cells(item))
    return {"errors.md": "\n\n".join(parts) + "\n", **result}
