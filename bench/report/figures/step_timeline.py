"""Figure of the predicted live memory during one training step, with shaded phases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.report.figures.style import canvas, save
from bench.report.tables.forecasts import FIXED, GIGABYTE, Forecast, words

PHASE_COLOURS = {"load": "#E0E0E0", "forward": "#CFE6F5", "backward": "#FBE3CF", "optimizer": "#D5EFE4"}
MAX_POINTS = 1500


def through_a_step(row: Forecast, path: Path) -> list[Path]:
    """Draw the predicted live bytes after every change in one training step, with shaded phases."""
    phases, sizes = [phase for phase, _ in row.timeline], [size / GIGABYTE for _, size in row.timeline]
    starts = [i for i in range(len(phases)) if i == 0 or phases[i] != phases[i - 1]]
    ends = [*starts[1:], len(phases)]
    with canvas(6.6, 3.0) as (figure, axes):
        named: set[str] = set()
        for start, end in zip(starts, ends, strict=True):
            phase = phases[start]
            colour = PHASE_COLOURS.get(phase, "#F0E6F4")
            axes.axvspan(
                start, end, color=colour, linewidth=0, zorder=0, label=None if phase in named else phase
            )
            named.add(phase)
        axes.plot(*thinned(sizes), color="black", linewidth=0.8)
        top = max(range(len(sizes)), key=lambda i: sizes[i])
        axes.plot([top], [sizes[top]], color="#D55E00", marker="v", markersize=5, linestyle="none")
        axes.annotate(
            f"{sizes[top]:.2f} GB",
            (top, sizes[top]),
            xytext=(6 if top < len(sizes) / 2 else -6, 0),
            textcoords="offset points",
            ha="left" if top < len(sizes) / 2 else "right",
            va="bottom",
            fontsize=8,
        )
        axes.set_xlim(0, len(sizes))
        axes.set_ylim(0, 1.12 * max(sizes))
        fixed = words(FIXED, [getattr(row, name) for name in FIXED], ", ")
        axes.set_xlabel(
            f"course of one step, in allocations and releases\n{row.label}, {row.backward}, {fixed}"
        )
        axes.set_ylabel("predicted live memory (GB)")
        figure.legend(loc="outside upper center", ncols=6, fontsize=7)
        return save(figure, path)


def thinned(sizes: Sequence[float]) -> tuple[list[int], list[float]]:
    """Return positions and values of the minimum and maximum of every interval, so that no peak is lost."""
    width = max(1, -(-2 * len(sizes) // MAX_POINTS))
    kept: set[int] = set()
    for first in range(0, len(sizes), width):
        stretch = range(first, min(first + width, len(sizes)))
        kept |= {min(stretch, key=lambda i: sizes[i]), max(stretch, key=lambda i: sizes[i])}
    positions = sorted(kept)
    return positions, [sizes[i] for i in positions]
