"""Figures of a comparison: mAP against memory, mAP over tIoU, training loss, a timeline of one video."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import matplotlib.patches

from bench.detection.evaluation import Segments
from bench.detection.submission import read_ground_truth, read_submission
from bench.errors import InputError
from bench.record import detections_path, ground_truth_path
from bench.report.tables import MEGABYTE, Comparison, Row, at_tiou

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart; markers and dashes say the same.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
    "legend.frameon": False,
}


@contextmanager
def _canvas(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        yield figure, figure.subplots()


def _save(figure: Figure, path: Path) -> list[Path]:
    """Write PNG and PDF without dates, so that equal figures are equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.pdf")]
    figure.savefig(files[0], metadata={"Software": None})
    figure.savefig(files[1], metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return files


def draw(comparison: Comparison, results: Path) -> list[Path]:
    """Draw all figures of a comparison and return the files; rows without finished runs have no marks."""
    rows = [row for row in comparison.rows if row.finished]
    if not rows:
        return []
    base = results / "figures" / comparison.slug
    files = map_against_memory(comparison, rows, base.with_name(f"{base.name}_map-memory"))
    files += map_over_tiou(comparison, rows, base.with_name(f"{base.name}_map-tiou"))
    files += training_loss(comparison, rows, base.with_name(f"{base.name}_loss"))
    return files + timeline(comparison, rows, results, base.with_name(f"{base.name}_timeline"))


def _average(row: Row) -> list[float]:
    return row.values(lambda record: 100 * record["metrics"]["map_average"])


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def map_against_memory(comparison: Comparison, rows: list[Row], path: Path) -> list[Path]:
    """Average mAP against the measured peak of a training step; the dashed line joins the Pareto front."""
    points = []
    for row in rows:
        peaks = row.values(lambda record: record["memory"]["peak_allocated_bytes"] / MEGABYTE)
        points.append((max(peaks), statistics.fmean(_average(row)), _spread(_average(row))))
    with _canvas(4.6, 3.2) as (figure, axes):
        for number, (row, (peak, mean, spread)) in enumerate(zip(rows, points, strict=True)):
            axes.errorbar(
                peak,
                mean,
                yerr=spread or None,
                color=COLOURS[number % 8],
                marker=MARKERS[number % 8],
                linestyle="none",
                capsize=3,
                label=f"{row.label} (n = {len(row.finished)})",
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
        axes.legend(loc="best", fontsize=7)
        return _save(figure, path)


def map_over_tiou(comparison: Comparison, rows: list[Row], path: Path) -> list[Path]:
    """Mean mAP over seeds at every tIoU threshold."""
    with _canvas(4.6, 3.2) as (figure, axes):
        for number, row in enumerate(rows):
            columns = [row.values(at_tiou(tiou)) for tiou in comparison.tious]
            x = [float(tiou) for tiou in comparison.tious]
            axes.errorbar(
                x,
                [statistics.fmean(c) for c in columns],
                yerr=[_spread(c) for c in columns],
                color=COLOURS[number % 8],
                marker=MARKERS[number % 8],
                linestyle=DASHES[number % 8],
                capsize=2,
                markersize=4,
                linewidth=1.2,
                label=f"{row.label} (n = {len(row.finished)})",
            )
        axes.set_xticks(x, comparison.tious)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("temporal IoU threshold")
        axes.set_ylabel("mAP (%)")
        axes.legend(fontsize=7)
        return _save(figure, path)


def training_loss(comparison: Comparison, rows: list[Row], path: Path) -> list[Path]:
    """Training loss (classification and regression) over steps, for the first seed of each row."""
    with _canvas(4.6, 3.2) as (figure, axes):
        for number, row in enumerate(rows):
            points = row.finished[0]["training"]["loss"]
            axes.plot(
                [p[0] for p in points],
                [p[1] + p[2] for p in points],
                color=COLOURS[number % 8],
                linestyle=DASHES[number % 8],
                linewidth=1.1,
                label=f"{row.label} (seed {row.finished[0]['seed']})",
            )
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        ticks = [t for t in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10, 20) if low <= t <= high]
        axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axes.minorticks_off()
        axes.set_xlabel("training step (a jump: a stage began with a fresh head)")
        axes.set_ylabel("training loss")
        axes.legend(fontsize=7)
        return _save(figure, path)


def timeline(comparison: Comparison, rows: list[Row], results: Path, path: Path) -> list[Path]:
    """Ground truth of one test video against each row's strongest detections (its first seed's).

    The video is the one with the most classes, then instances, then by name. Of each row at most as many
    detections are drawn as there are instances, the strongest first, none that overlaps a stronger one by
    more than half of either; the higher a bar, the higher its score. Not drawn where the folder does not
    hold the ground truth and the detections.
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
    with _canvas(7.0, 0.42 * len(lanes) + 1.0) as (figure, axes):
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
        return _save(figure, path)


class Bar(NamedTuple):
    """One segment in seconds, its class, and its score relative to the lane's highest."""

    start: float
    end: float
    label: str
    score: float


def strongest(detections: Segments, video: str, count: int) -> list[Bar]:
    """Return at most ``count`` detections of a video that stand clear of each other, strongest first."""
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
