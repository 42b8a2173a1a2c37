"""Figures of a comparison: mAP against memory, mAP over tIoU, training loss, a timeline of one video."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib.patches

from bench.detection.segments import Segments
from bench.detection.submission import read_ground_truth, read_submission
from bench.io.errors import InputError
from bench.records.paths import detections_path, ground_truth_path
from bench.report.figures.style import COLOURS, SeriesStyle, canvas, looks, save
from bench.report.grouping import Comparison, Row, at_tiou, average, megabytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(comparison: Comparison, results: Path) -> list[Path]:
    """Draw all figures of a comparison and return the files; rows without finished runs are left out."""
    rows = [row for row in comparison.rows if row.finished]
    if not rows:
        return []
    base = results / "figures" / comparison.slug
    files = map_against_memory(comparison, rows, base.with_name(f"{base.name}_map-memory"))
    files += map_over_tiou(comparison, rows, base.with_name(f"{base.name}_map-tiou"))
    files += training_loss(comparison, rows, base.with_name(f"{base.name}_loss"))
    return files + timeline(comparison, rows, results, base.with_name(f"{base.name}_timeline"))


def _looks(rows: list[Row]) -> list[SeriesStyle]:
    return looks([row.strategy for row in rows])


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def map_against_memory(comparison: Comparison, rows: list[Row], path: Path) -> list[Path]:
    """Draw average mAP against the measured peak of a training step; a dashed line marks the Pareto front.

    If a strategy has several rows, which share its marker, all rows are numbered.
    """
    points = []
    for row in rows:
        points.append(
            (max(row.values(megabytes)), statistics.fmean(row.values(average)), _spread(row.values(average)))
        )
    with canvas(4.6 + room_beside(rows), 3.2) as (figure, axes):
        numbered = len({row.strategy for row in rows}) < len(rows)
        for number, (row, look, (peak, mean, spread)) in enumerate(
            zip(rows, _looks(rows), points, strict=True), 1
        ):
            if numbered:  # above the bar: bars of one peak end at different heights
                axes.annotate(
                    str(number),
                    (peak, mean + spread),
                    (0, 3),
                    textcoords="offset points",
                    horizontalalignment="center",
                    fontsize=6.5,
                    color=look.colour,
                    bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
                )
            axes.errorbar(
                peak,
                mean,
                yerr=spread or None,
                color=look.colour,
                marker=look.marker,
                markerfacecolor=look.colour if look.filled else "white",
                linestyle="none",
                capsize=3,
                label=f"{f'{number}  ' if numbered else ''}{row.label} (n = {len(row.finished)})",
            )
        front = [p for p in sorted(points) if not any(o[0] <= p[0] and o[1] > p[1] for o in points)]
        axes.plot(
            [p[0] for p in front], [p[1] for p in front], color="0.6", linestyle="--", linewidth=1, zorder=0
        )
        axes.set_xscale("log")
        ticks = [
            t
            for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10**4, 10**5)
            if min(points)[0] / 2.2 < t < max(points)[0] * 2.2
        ]
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.minorticks_off()
        axes.set_xlim(min(points)[0] / 1.6, max(points)[0] * 1.6)
        axes.set_xlabel("measured peak memory of a training step (MB)")
        axes.set_ylabel("average mAP (%)")
        name_rows(figure, axes, rows)
        return save(figure, path)


def map_over_tiou(comparison: Comparison, rows: list[Row], path: Path) -> list[Path]:
    """Draw the mean mAP over seeds at every tIoU threshold."""
    with canvas(4.6 + room_beside(rows), 3.2) as (figure, axes):
        for row, look in zip(rows, _looks(rows), strict=True):
            columns = [row.values(at_tiou(tiou)) for tiou in comparison.tious]
            x = [float(tiou) for tiou in comparison.tious]
            axes.errorbar(
                x,
                [statistics.fmean(c) for c in columns],
                yerr=[_spread(c) for c in columns],
                color=look.colour,
                marker=look.marker,
                markerfacecolor=look.colour if look.filled else "white",
                linestyle=look.dashes,
                capsize=2,
                markersize=4,
                linewidth=1.2,
                label=f"{row.label} (n = {len(row.finished)})",
            )
        axes.set_xticks(x, comparison.tious)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("temporal IoU threshold")
        axes.set_ylabel("mAP (%)")
        name_rows(figure, axes, rows)
        return save(figure, path)


INSIDE_ROWS = 6
"""Maximum number of rows for a legend inside the axes; with more, it is placed beside them."""


def room_beside(rows: list[Row]) -> float:
    """Return the width in inches of the legend beside the axes, if it is there."""
    return 2.6 if len(rows) > INSIDE_ROWS else 0.0


def name_rows(figure: Figure, axes: Axes, rows: list[Row]) -> None:
    """Add the legend, inside the axes or, with many rows, beside them."""
    if len(rows) > INSIDE_ROWS:
        figure.legend(loc="outside right center", fontsize=7)
    else:
        axes.legend(loc="best", fontsize=7)


def training_loss(comparison: Comparison, rows: list[Row], path: Path) -> list[Path]:
    """Draw the training loss (classification plus regression) over steps, for the first seed of each row."""
    with canvas(4.6 + room_beside(rows), 3.2) as (figure, axes):
        for row, look in zip(rows, _looks(rows), strict=True):
            points = row.finished[0]["training"]["loss"]
            axes.plot(
                [p[0] for p in points],
                [p[1] + p[2] for p in points],
                color=look.colour,
                linestyle=look.dashes,
                linewidth=1.1,
                label=f"{row.label} (seed {row.finished[0]['seed']})",
            )
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        ticks = [t for t in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10, 20) if low <= t <= high]
        axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axes.minorticks_off()
        axes.set_xlabel("\n".join(["training step", *jumps(rows)]))
        axes.set_ylabel("training loss")
        name_rows(figure, axes, rows)
        return save(figure, path)


def jumps(rows: list[Row]) -> list[str]:
    """Return explanations of the jumps in the loss of these rows."""
    lines: dict[str, None] = {}
    for row in rows:
        entries = row.finished[0]["memory"].get("stages", ())
        stages = [entry["stage"] for entry in entries]
        if len(set(stages)) > 1:
            lines["a high jump: a stage began with a fresh head"] = None
        if len({(entry["stage"], str(entry["fidelity"])) for entry in entries}) > len(set(stages)):
            lines[f"a small jump of {row.strategy}: its cycle went on to another fidelity"] = None
    return list(lines)


def timeline(comparison: Comparison, rows: list[Row], results: Path, path: Path) -> list[Path]:
    """Draw the ground truth of one test video and the best detections of each row's first seed.

    The video is the one with the most classes, then the most instances, then the first by name. For each row,
    at most as many detections as instances are drawn, best first, without those that overlap a better one by
    more than half of the shorter one; the height of a bar shows its score. Nothing is drawn if the folder
    does not contain the ground truth and the detections.
    """
    record = rows[0].finished[0]
    try:
        truth = read_ground_truth(ground_truth_path(results, record), record["protocol"]["evaluation_subset"])
        found = [read_submission(detections_path(results, row.finished[0]["id"])) for row in rows]
    except InputError:
        return []
    videos = sorted({str(video) for video in truth.video})
    video = min(videos, key=lambda v: (-len(set(truth.label[truth.video == v])), -sum(truth.video == v), v))
    labels = sorted(set(map(str, truth.label)))
    mine = truth.video == video
    bars = [Bar(*bar, 1.0) for bar in zip(truth.start[mine], truth.end[mine], truth.label[mine], strict=True)]
    lanes = [("ground truth", bars)]
    lanes += [(row.label, strongest(part, video, len(bars))) for row, part in zip(rows, found, strict=True)]
    with canvas(7.0, 0.42 * len(lanes) + 1.0) as (figure, axes):
        for lane, (_, drawn) in enumerate(lanes):
            for bar in drawn:
                colour = COLOURS[1:][labels.index(bar.label) % 7] if bar.label in labels else "0.5"
                axes.barh(
                    -lane,
                    bar.end - bar.start,
                    left=bar.start,
                    height=0.25 + 0.5 * bar.score,
                    color=colour,
                    edgecolor="black",
                    linewidth=0.4,
                )
        axes.set_yticks([-lane for lane in range(len(lanes))], [name for name, _ in lanes])
        axes.set_xlim(0, 1.02 * max(bar.end for _, drawn in lanes for bar in drawn))
        axes.set_xlabel(f"seconds of video {video} (bar height: score)")
        patches = [
            matplotlib.patches.Patch(color=COLOURS[1:][i % 7], label=label) for i, label in enumerate(labels)
        ]
        figure.legend(handles=patches, loc="outside upper center", ncols=min(7, len(labels)), fontsize=7)
        return save(figure, path)


class Bar(NamedTuple):
    """One segment in seconds, its class, and its score relative to the lane's highest."""

    start: float
    end: float
    label: str
    score: float


def strongest(detections: Segments, video: str, count: int) -> list[Bar]:
    """Return at most ``count`` detections of a video with little mutual overlap, best first."""
    assert detections.score is not None
    score = detections.score
    order = sorted((i for i in range(len(score)) if detections.video[i] == video), key=lambda i: -score[i])
    kept: list[Bar] = []
    for index in order:
        start, end = float(detections.start[index]), float(detections.end[index])
        shared = [min(end, bar.end) - max(start, bar.start) for bar in kept]
        shorter = [min(end - start, bar.end - bar.start) for bar in kept]
        if len(kept) < count and all(s <= 0.5 * length for s, length in zip(shared, shorter, strict=True)):
            kept.append(Bar(start, end, str(detections.label[index]), float(score[index] / score[order[0]])))
    return kept
