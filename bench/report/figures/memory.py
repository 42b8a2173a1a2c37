"""Figures of predicted memory: over frames, sizes and models, with measured points, and by kind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib.lines
import matplotlib.ticker

from bench.memory.constants import CARDS, KINDS
from bench.records.record import Record
from bench.report.figures.step_timeline import through_a_step
from bench.report.figures.strategies import by_strategy, main_rows
from bench.report.figures.style import HATCHES, canvas, look_of, plain_ticks, save
from bench.report.tables.forecasts import FIXED, GIGABYTE, Forecast, in_order, words
from bench.report.tables.measured_memory import MeasuredStep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BACKWARD_DASHES: dict[str, Any] = {"plain": "-", "checkpointed": "--", "streamed": (0, (1, 1.2))}
KIND_COLOURS = ("#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
NUMBERS = tuple(digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5))


class Point(NamedTuple):
    """A measured run or step: its configuration and its peak."""

    strategy: str
    backward: str
    model: str
    frames: int
    image_size: int
    batch_size: int
    precision: str
    device: str
    peak_bytes: int


class Axis(NamedTuple):
    """The x-axis of a figure: a field of a forecast; all other fields are fixed within a figure."""

    field: str
    title: str


AXES = (
    Axis("frames", "frames of a window"),
    Axis("image_size", "height and width of a frame (pixels)"),
    Axis("model", "backbone"),
)


def draw(
    rows: Sequence[Forecast], records: Iterable[Record], results: Path, steps: Iterable[MeasuredStep] = ()
) -> list[Path]:
    """Draw all figures that the rows allow, with measured runs and steps, and return the files."""
    folder = results / "figures"
    points = measured(records, rows)
    points += [
        Point._make((*_fields(step.forecast, Point._fields[:-1]), step.peak_bytes))
        for step in steps
        if step.peak_bytes is not None
    ]
    files = []
    main = main_rows(rows)
    for axis in AXES:
        others = tuple(name for name in FIXED if name != axis.field)
        for key, group in _groups(main, others):
            if len({getattr(row, axis.field) for row in group}) > 1:
                mine = [point for point in points if _fields(point, others) == key]
                name = f"memory_{axis.field.replace('_', '-')}_{words(others, key, '_')}"
                files += peak_along(axis, group, mine, words(others, key, ", "), folder / _slug(name))
    others = tuple(name for name in FIXED if name != "model")
    for key, group in _groups(rows, others):
        name = f"memory_strategies_{words(others, key, '_')}"
        files += by_strategy(group, words(others, key, ", "), folder / _slug(name))
    if largest := largest_common(main):
        files += split_by_kind(largest, folder / "memory_kinds")
    for row in rows:
        if row.timeline:
            name = words(FIXED, _fields(row, FIXED), "_")
            name = f"memory_timeline_{row.label}_{row.backward}_{name}"
            files += through_a_step(row, folder / _slug(name))
    return files


def measured(records: Iterable[Record], rows: Sequence[Forecast]) -> list[Point]:
    """Return the finished runs of the models in ``rows``, from which the frames per clip are known."""
    clip_frames = {row.model: row.frames // row.clips for row in rows}
    return [
        Point(
            str(record["strategy"]["name"]),
            str(record["protocol"].get("backward", "plain")),
            record["model"],
            int(record["protocol"]["window_clips"]) * clip_frames[record["model"]],
            int(record["protocol"]["image_size"]),
            int(record["protocol"]["batch_size"]),
            str(record["protocol"]["precision"]),
            str(record["environment"]["device_type"]),
            int(record["memory"]["peak_allocated_bytes"]),
        )
        for record in records
        if record["status"] == "ok"
        and record["model"] in clip_frames
        and {"window_clips", "image_size", "batch_size", "precision"} <= record["protocol"].keys()
        and "device_type" in record["environment"]
    ]


def largest_common(rows: Sequence[Forecast]) -> list[Forecast]:
    """Return the rows of the configuration with the most strategies and modes; the largest one on a tie."""
    groups = [group for _, group in _groups(rows, FIXED)]
    return max(groups, key=lambda group: (len(group), group[0].key), default=[])


def peak_along(
    axis: Axis, rows: Sequence[Forecast], points: Sequence[Point], fixed: str, path: Path
) -> list[Path]:
    """Draw the predicted peak along an axis, a line per strategy and backward mode, and measured points."""
    values: list[Any] = sorted({getattr(row, axis.field) for row in rows}, key=in_order)
    categories = axis.field == "model"

    def place(value: Any) -> float:
        return float(values.index(value) if categories else value)

    with canvas(6.6, 3.9) as (figure, axes):
        for _, line in _groups(rows, ("label", "backward")):
            look = look_of(line[0].strategy)
            line = sorted(line, key=lambda row: place(getattr(row, axis.field)))
            axes.plot(
                [place(getattr(row, axis.field)) for row in line],
                [row.peak_bytes / GIGABYTE for row in line],
                color=look.colour,
                linestyle=BACKWARD_DASHES[line[0].backward],
                marker=look.marker,
                markersize=3,
                linewidth=1.2,
            )
        shown = [point for point in points if not categories or point.model in values]
        for point in shown:
            look = look_of(point.strategy)
            axes.plot(
                place(getattr(point, axis.field)),
                point.peak_bytes / GIGABYTE,
                color=look.colour,
                marker=look.marker,
                markersize=8,
                markerfacecolor="none",
                markeredgewidth=1.4,
                linestyle="none",
            )
        axes.set_yscale("log")
        if categories:
            axes.set_xticks(range(len(values)), values)
            axes.set_xlim(-0.3, len(values) - 0.7)
        else:
            axes.set_xscale("log")
            inside = [place(getattr(item, axis.field)) for item in (*rows, *shown)]
            axes.set_xlim(min(inside) / 1.08, max(inside) * 1.08)
            plain_ticks(axes, "x", values)
        _card_lines(axes, "y")
        plain_ticks(axes, "y", NUMBERS)
        axes.set_xlabel(f"{axis.title}\n{fixed}")
        axes.set_ylabel("peak of a training step (GB)")
        figure.legend(handles=_legend(rows, shown), loc="outside right upper", fontsize=7, handlelength=2.6)
        return save(figure, path)


def _legend(rows: Sequence[Forecast], points: Sequence[Point]) -> list[matplotlib.lines.Line2D]:
    line = matplotlib.lines.Line2D
    drawn = {row.strategy for row in rows} | {point.strategy for point in points}
    names = sorted(drawn, key=lambda name: (name != "head-only", name))
    marks: dict[str, Any] = {"markersize": 4, "linestyle": "none"}
    handles = [
        line([], [], color=look_of(name).colour, marker=look_of(name).marker, label=name, **marks)
        for name in names
    ]
    used = {row.backward for row in rows}
    handles += [
        line([], [], color="0.3", linestyle=dashes, label=f"predicted, {mode}")
        for mode, dashes in BACKWARD_DASHES.items()
        if mode in used
    ]
    if points:
        ring: dict[str, Any] = {
            "marker": "o",
            "markersize": 8,
            "markerfacecolor": "none",
            "linestyle": "none",
        }
        handles.append(line([], [], color="0.3", label="measured", **ring))
    return handles


def _card_lines(axes: Axes, direction: str) -> None:
    """Draw lines at the memory sizes of cards that are near the limits of an axis in GB."""
    low, high = axes.get_ylim() if direction == "y" else axes.get_xlim()
    near = {name: size / GIGABYTE for name, size in CARDS.items() if low <= size / GIGABYTE <= high * 1.5}
    for name, size in near.items():
        style: dict[str, Any] = {"color": "0.55", "linewidth": 0.8, "zorder": 0}
        text: dict[str, Any] = {"fontsize": 7, "color": "0.3"}
        if direction == "y":
            axes.axhline(size, **style)
            across = axes.get_yaxis_transform()
            axes.text(1.01, size, f"{name} GB card", transform=across, ha="left", va="center", **text)
        else:
            axes.axvline(size, **style)
            up = axes.get_xaxis_transform()
            axes.text(size, 1.01, f"{name}", transform=up, ha="center", va="bottom", **text)
    if near and direction == "y":
        axes.set_ylim(low, max(high, *(size * 1.25 for size in near.values())))
    elif near:
        axes.set_xlim(low, max(high, *(size * 1.05 for size in near.values())))


def split_by_kind(rows: Sequence[Forecast], path: Path) -> list[Path]:
    """Draw the predicted bytes at the peak by kind, one stacked bar per strategy and backward mode."""
    with canvas(6.6, 0.27 * len(rows) + 1.5) as (figure, axes):
        ends = [0.0] * len(rows)
        for kind, colour, hatch in zip(KINDS, KIND_COLOURS, HATCHES, strict=False):
            widths = [dict(row.kinds).get(kind, 0) / GIGABYTE for row in rows]
            if any(widths):
                axes.barh(
                    [-i for i in range(len(rows))],
                    widths,
                    left=ends,
                    height=0.75,
                    color=colour,
                    edgecolor="white",
                    linewidth=0.3,
                    hatch=hatch,
                    label=kind,
                )
            ends = [end + width for end, width in zip(ends, widths, strict=True)]
        axes.set_yticks([-i for i in range(len(rows))], [f"{row.label}, {row.backward}" for row in rows])
        axes.tick_params(axis="y", labelsize=8)
        axes.set_xlim(0, 1.03 * max(ends))
        _card_lines(axes, "x")
        fixed = words(FIXED, _fields(rows[0], FIXED), ", ")
        axes.set_xlabel(f"predicted bytes at the peak (GB; grey lines: cards of so many GB)\n{fixed}")
        figure.legend(loc="outside upper center", ncols=6, fontsize=7)
        return save(figure, path)


def _fields(item: Forecast | Point, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(getattr(item, name) for name in names)


def _groups(rows: Sequence[Forecast], names: Sequence[str]) -> list[tuple[Any, list[Forecast]]]:
    """Return the rows grouped by these fields, in order of first appearance."""
    groups: dict[Any, list[Forecast]] = {}
    for row in rows:
        groups.setdefault(_fields(row, names), []).append(row)
    return list(groups.items())


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-")
