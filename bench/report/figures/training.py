"""Figures of training: the fidelity schedule and the learned gates of strategies."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.patches

from bench.records.record import Record
from bench.report.figures.style import COLOURS, HATCHES, canvas, save
from bench.report.grouping import Comparison, Row

RANGES = {"short": ("#0072B2", "o", "-"), "long": ("#D55E00", "s", "--")}
"""Colour, marker and dashes of an adapter's range."""


def draw(comparison: Comparison, results: Path) -> list[Path]:
    """Draw the schedules and gates recorded in a comparison, and return the files."""
    base = results / "figures" / comparison.slug
    files = []
    if reduced := [row for row in comparison.rows if any(f != (1.0, 1.0) for _, f in spans(row))]:
        files += fidelity_schedule(reduced, base.with_name(f"{base.name}_fidelity"))
    if gated := [row for row in comparison.rows if gates(row)]:
        files += learned_gates(gated, base.with_name(f"{base.name}_gates"))
    return files


def _training(record: Record) -> dict[str, Any]:
    return record.get("training") or {}


def spans(row: Row) -> list[tuple[tuple[int, int], tuple[float, float]]]:
    """Return the schedule of a row's first run: ((first step, length), (temporal, spatial fidelity)) entries.

    Every seed has the same schedule.
    """
    for record in row.finished:
        if entries := _training(record).get("schedule"):
            ends = [*(entry["first_step"] for entry in entries[1:]), int(_training(record)["loss"][-1][0])]
            return [
                (
                    (int(entry["first_step"]), int(end) - int(entry["first_step"])),
                    (float(entry["fidelity"]["temporal"]), float(entry["fidelity"]["spatial"])),
                )
                for entry, end in zip(entries, ends, strict=True)
            ]
    return []


def fidelity_schedule(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw the fractions of snippets and of the frames' side length at each step, one bar per row."""
    found = [spans(row) for row in rows]
    kinds = sorted({fidelity for row in found for _, fidelity in row}, reverse=True)
    with canvas(6.6, 0.42 * len(rows) + 1.3) as (figure, axes):
        for number, row in enumerate(found):
            for index, kind in enumerate(kinds):
                axes.broken_barh(
                    [span for span, fidelity in row if fidelity == kind],
                    (-number - 0.35, 0.7),
                    facecolor=("0.9", *COLOURS[1:])[index % len(COLOURS)],
                    hatch=HATCHES[index % len(HATCHES)],
                    edgecolor="white",
                    linewidth=0.2,
                )
        axes.set_yticks([-i for i in range(len(rows))], [row.label for row in rows], fontsize=8)
        axes.set_xlim(0, max(first + length for row in found for (first, length), _ in row))
        axes.set_xlabel("training step")
        handles = [
            matplotlib.patches.Patch(
                facecolor=("0.9", *COLOURS[1:])[index % len(COLOURS)],
                hatch=HATCHES[index % len(HATCHES)],
                edgecolor="0.5",
                linewidth=0.3,
                label="full" if kind == (1.0, 1.0) else f"snippets × {kind[0]:.2g}, sides × {kind[1]:.2g}",
            )
            for index, kind in enumerate(kinds)
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=7)
        return save(figure, path)


def gates(row: Row) -> dict[str, dict[int, list[float]]]:
    """Return the mean |tanh| of the gates of each run, by range and tapped layer."""
    found: dict[str, dict[int, list[float]]] = {}
    for record in row.finished:
        for name, layers in (_training(record).get("learned") or {}).get("gates", {}).items():
            for layer, opened in layers:
                found.setdefault(name, {}).setdefault(int(layer), []).append(float(opened))
    return found


def learned_gates(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw the gate opening of each tapped layer: means over seeds, with bars from minimum to maximum."""
    columns = len(rows)
    with canvas(max(3.2, 1.9 * columns), 2.8, columns) as (figure, panels):
        for row, axes in zip(rows, [panels] if columns == 1 else panels, strict=True):
            found = gates(row)
            for name, layers in found.items():
                colour, marker, dashes = RANGES.get(name, ("#000000", "^", ":"))
                means = [statistics.fmean(values) for values in layers.values()]
                # The mean of equal values may be off by one bit, and a negative bar length is an error.
                below = [max(0.0, mean - min(v)) for mean, v in zip(means, layers.values(), strict=True)]
                above = [max(0.0, max(v) - mean) for mean, v in zip(means, layers.values(), strict=True)]
                axes.errorbar(
                    list(layers),
                    means,
                    yerr=(below, above) if len(row.finished) > 1 else None,
                    color=colour,
                    marker=marker,
                    linestyle=dashes,
                    markersize=4,
                    capsize=2,
                    label=f"{name} range",
                )
            ticks = sorted({layer for layers in found.values() for layer in layers})
            axes.set_xticks(ticks)
            axes.set_xlim(ticks[0] - 0.5, ticks[-1] + 0.5)
            axes.set_title(f"{row.label}\nn = {len(row.finished)}".replace(" (", "\n("), fontsize=7)
            axes.set_xlabel("tapped layer")
        first = panels if columns == 1 else panels[0]
        first.set_ylim(0, 1.05 * first.get_ylim()[1])  # shared by all panels
        first.set_ylabel("mean |tanh(gate)|")
        handles = {
            label: handle for axes in figure.axes for handle, label in zip(*_legend(axes), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2, fontsize=7)
        return save(figure, path)


def _legend(axes: Any) -> tuple[list[Any], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    return list(handles), list(labels)
