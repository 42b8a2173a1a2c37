"""Figures of convergence: average mAP on tuning videos against steps, and against processor seconds.

The processor seconds are those of steps. Encodings of frozen backbones, which are computed once, are left
out.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.records.record import Record
from bench.report.figures.accuracy import name_rows, room_beside
from bench.report.figures.style import canvas, looks, plain_ticks, save
from bench.report.grouping import Comparison, Row

AXES = {"step": "training step", "processor_seconds": "processor seconds of steps, without frozen encodings"}

TICKS = tuple(digit * 10.0**power for power in range(-2, 6) for digit in (1, 2, 5))


def draw(comparison: Comparison, results: Path) -> list[Path]:
    """Draw both figures of a comparison and return the files; none if no run was evaluated in training."""
    rows = [row for row in comparison.rows if curve(row, "step")]
    if not rows:
        return []
    base = results / "figures" / comparison.slug
    files = []
    for name in AXES:
        files += curves(rows, name, base.with_name(f"{base.name}_map-{name.replace('_', '-')}"))
    return files


def _points(record: Record) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = ((record.get("training") or {}).get("tuning") or {}).get("points") or []
    return found


def curve(row: Row, name: str) -> list[tuple[float, float, float]]:
    """Return (mean of ``name``, mean mAP in percent, standard deviation) at the steps of all runs of a row.

    Only runs with curves count, and only steps at which each of them was evaluated.
    """
    runs = [{each["step"]: each for each in _points(record)} for record in row.finished if _points(record)]
    steps = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    found = []
    for step in steps:
        values = [100 * float(run[step]["map_average"]) for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        found.append(
            (statistics.fmean(float(run[step][name]) for run in runs), statistics.fmean(values), spread)
        )
    return found


def curves(rows: Sequence[Row], name: str, path: Path) -> list[Path]:
    """Draw mean mAP over seeds, with a band of one standard deviation, one line a row."""
    shown = list(rows)
    with canvas(4.6 + room_beside(shown), 3.2) as (figure, axes):
        for row, look in zip(shown, looks([row.strategy for row in shown]), strict=True):
            x, mean, spread = zip(*curve(row, name), strict=True)
            low, high = ([m + sign * s for m, s in zip(mean, spread, strict=True)] for sign in (-1, 1))
            axes.fill_between(x, low, high, color=look.colour, alpha=0.12, linewidth=0)
            axes.plot(
                x,
                mean,
                color=look.colour,
                marker=look.marker,
                markerfacecolor=look.colour if look.filled else "white",
                linestyle=look.dashes,
                markersize=4,
                linewidth=1.2,
                label=f"{row.label} (n = {sum(bool(_points(record)) for record in row.finished)})",
            )
        if name != "step":
            axes.set_xscale("log")
            plain_ticks(axes, "x", TICKS)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(AXES[name])
        axes.set_ylabel("average mAP on tuning videos (%)")
        name_rows(figure, axes, shown)
        return save(figure, path)
