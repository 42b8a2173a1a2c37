"""Figure of predicted memory by strategy: one panel per backbone, one line per strategy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.lines
import numpy as np

from bench.report.figures.style import canvas, plain_ticks, save
from bench.report.tables.forecasts import GIGABYTE, Forecast, in_order
from strategies import NAMED_GROUPS

MODE_MARKS: dict[str, tuple[str, str, bool]] = {
    "plain": ("o", "#000000", True),
    "checkpointed": ("s", "#D55E00", False),
    "streamed": ("^", "#0072B2", True),
}
"""Marker, colour, and whether it is filled, of each backward mode."""
LEAST = 6
"""Strategies from which on the figure is drawn."""
DECADES = tuple(digit * 10.0**power for power in range(-2, 4) for digit in (1, 3))


def main_rows(rows: Sequence[Forecast]) -> list[Forecast]:
    """Return the rows without strategies of the groups ``field`` and ``controls`` that are not in others.

    A figure with a line for each of all strategies cannot be read.
    """
    main = {*NAMED_GROUPS["default"], *NAMED_GROUPS["papers"]}
    more = {*NAMED_GROUPS["field"], *NAMED_GROUPS["controls"]} - main
    return [row for row in rows if row.strategy not in more]


def wanted_models(rows: Sequence[Forecast]) -> list[str]:
    """Return the models, small to large, that have forecasts of nearly as many strategies as any."""
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row.model, set()).add(row.label)
    most = max(map(len, found.values()), default=0)
    enough = [model for model, labels in found.items() if len(labels) >= max(LEAST, 0.8 * most)]
    return sorted(enough, key=in_order)


def by_strategy(rows: Sequence[Forecast], fixed: str, path: Path) -> list[Path]:
    """Draw the predicted peak of every strategy and backward mode; none if there are few strategies."""
    models = wanted_models(rows)
    if not models:
        return []
    shown = [row for row in rows if row.model in models]
    of_largest = sorted((row.peak_bytes, row.label) for row in shown if row.model == models[-1])
    # Sorted by the least peak of the largest model; what it lacks comes first, by name.
    placed = list(dict.fromkeys(label for _, label in of_largest))
    labels = [*sorted({row.label for row in shown} - set(placed)), *placed]
    height = 0.2 * len(labels) + 1.3
    with canvas(6.6, height, columns=len(models)) as (figure, panels):
        for model, axes in zip(models, np.atleast_1d(panels), strict=True):
            for row in shown:
                if row.model != model:
                    continue
                marker, colour, filled = MODE_MARKS[row.backward]
                axes.plot(
                    row.peak_bytes / GIGABYTE,
                    -labels.index(row.label),
                    color=colour,
                    marker=marker,
                    markersize=5,
                    markerfacecolor=colour if filled else "none",
                    linestyle="none",
                )
            axes.set_xscale("log")
            axes.grid(axis="y", color="0.9", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.set_title(model, fontsize=9)
            axes.set_yticks([-number for number in range(len(labels))], labels)  # shared by all panels
            axes.tick_params(axis="y", labelsize=7, length=0)
            axes.tick_params(axis="x", labelsize=7)
            axes.set_ylim(-len(labels) + 0.4, 0.6)
            plain_ticks(axes, "x", DECADES)
        figure.supxlabel(f"predicted peak of a training step (GB)\n{fixed}", fontsize=8)
        used = {row.backward for row in shown}
        figure.legend(
            handles=[_handle(mode) for mode in MODE_MARKS if mode in used],
            loc="outside upper center",
            ncols=3,
            fontsize=7,
        )
        return save(figure, path)


def _handle(mode: str) -> matplotlib.lines.Line2D:
    marker, colour, filled = MODE_MARKS[mode]
    style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "linestyle": "none"}
    return matplotlib.lines.Line2D(
        [], [], label=f"predicted, {mode}", markerfacecolor=colour if filled else "none", **style
    )
