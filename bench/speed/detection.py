"""Timings of non-maximum suppression and evaluation of detections."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from bench.speed import Inputs, Measurement, seconds_of

if TYPE_CHECKING:
    import numpy as np

    from bench.detection.segments import Segments

TIOUS = tuple(round(0.1 * each, 1) for each in range(1, 10))


def suppression(inputs: Inputs) -> list[Measurement]:
    """Time soft-NMS of 42,000 detections in 212 videos and 20 classes; the plain loop on a sample."""
    import numpy as np

    from bench.detection import soft_nms

    generator = np.random.default_rng(0)
    videos = []
    total = max(212, round(42_000 * inputs.scale))
    for count in np.diff(np.linspace(0, total, 213).astype(int)):
        start = generator.uniform(0, 200, count)
        segments = np.stack((start, start + generator.exponential(5, count)), axis=1)
        videos.append((segments, generator.uniform(0.01, 1, count), generator.integers(0, 20, count)))
    fast = seconds_of(lambda: [soft_nms(*video, max_seg_num=200) for video in videos])
    name = f"soft-NMS, {total} detections in {len(videos)} videos"
    rows = [Measurement("nms", name, fast, "s", 5.0)]
    reference = inputs.reference("nms")
    if reference is not None:
        sample = videos[:: max(1, round(len(videos) / max(2, 12 * inputs.scale)))]

        def slow() -> None:
            for segments, scores, labels in sample:
                pairs = [tuple(pair) for pair in segments.tolist()]
                reference.suppress(
                    *(pairs, scores.tolist(), labels.tolist(), True, True, 0.1, 0.5, 0.001, 200, 0.75)
                )

        share = sum(len(video[1]) for video in sample) / total
        note = f"the loop ran on {len(sample)} videos, scaled up by their share of detections"
        rows.append(Measurement("nms", "over a plain loop", seconds_of(slow) / share / fast, "x", None, note))
    return rows


def _synthetic(truths: int, found: int) -> tuple[Segments, Segments]:
    import numpy as np

    from bench.detection.segments import Segments

    generator = np.random.default_rng(0)

    def table(count: int, scores: np.ndarray | None) -> Segments:
        start = generator.uniform(0, 200, count)
        return Segments(
            np.char.mod("video%d", generator.integers(0, 212, count)),
            np.char.mod("class%d", generator.integers(0, 20, count)),
            start,
            start + generator.exponential(5, count),
            scores,
        )

    return table(truths, None), table(found, generator.uniform(0, 1, found))


def _repeated(found: Segments, times: int) -> Segments:
    """Return ``times`` copies of the detections, each with a small random shift."""
    import numpy as np

    generator = np.random.default_rng(1)
    count = len(found) * times
    shift = generator.normal(0, 0.5, count)
    assert found.score is not None
    return dataclasses.replace(
        found,
        video=np.tile(found.video, times),
        label=np.tile(found.label, times),
        start=np.tile(found.start, times) + shift,
        end=np.tile(found.end, times) + shift,
        score=np.tile(found.score, times) * generator.uniform(0.5, 1, count),
    )


def evaluation(inputs: Inputs) -> list[Measurement]:
    """Time the evaluator at nine thresholds, the plain loop, and the growth with the number of detections."""
    import numpy as np

    from bench.detection import evaluate, read_ground_truth, read_submission

    files = inputs.files("detections", "autoloc_th14_*.json.gz")  # ground truth, then predictions
    if inputs.scale == 1 and len(files) == 2:
        truth, found = read_ground_truth(files[0], "test"), read_submission(files[1])
        origin = "AutoLoc's on THUMOS-14"
    else:
        truth, found = _synthetic(max(40, round(3234 * inputs.scale)), max(40, round(20_763 * inputs.scale)))
        origin = "synthetic"
    scores = found.score
    assert scores is not None
    more = {factor: _repeated(found, factor) for factor in (1, 2, 4, 8)}
    times = {
        factor: seconds_of(functools.partial(evaluate, truth, more[factor], TIOUS), 3) for factor in more
    }
    fast = seconds_of(lambda: evaluate(truth, found, TIOUS), 3)
    what = f"evaluator, {len(found)} detections, nine tIoUs"
    rows = [Measurement("evaluation", what, fast, "s", None, origin)]
    reference = inputs.reference("evaluation")
    if reference is not None:
        labels = np.unique(truth.label)

        def rows_of(table: Segments, label: str, *columns: np.ndarray) -> list[tuple[Any, ...]]:
            mine = table.label == label
            return list(zip(*(column[mine].tolist() for column in (table.video, *columns)), strict=True))

        def slow() -> None:
            for label in labels:
                instances = rows_of(truth, label, truth.start, truth.end)
                detections = rows_of(found, label, found.start, found.end, scores)
                reference.average_precision(instances, detections, 0.5)

        note = f"the loop ran at one tIoU, scaled up to {len(TIOUS)}"
        ratio = seconds_of(slow) * len(TIOUS) / fast
        rows.append(Measurement("evaluation", "over a plain loop", ratio, "x", 100.0, note))
    growth = np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0]
    note = f"time grows as detections to the power of {growth:.2f}"
    rows += [
        Measurement("evaluation", f"{factor} x the detections", each, "s", None, note if factor == 8 else "")
        for factor, each in times.items()
    ]
    return rows
