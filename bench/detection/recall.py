"""Average recall: the fraction of instances that the best proposals of a video cover, labels ignored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.detection.segments import Segments, codes
from bench.io.errors import InputError

PROPOSALS = (1, 5, 10, 50, 100)


def average_recall(
    ground_truth: Segments,
    detections: Segments,
    tiou_thresholds: Sequence[float],
    proposals: Sequence[int] = PROPOSALS,
) -> dict[int, float]:
    """Return AR@AN as a fraction for each number AN of ``proposals``, averaged over the thresholds.

    An instance is recalled if any of the AN detections of highest score in its video has at least the
    threshold's tIoU with it; several instances may share one (ActivityNet's proposal task, Caba Heilbron et
    al., CVPR 2015). Differs: the AN best of each video are used; that task's code distributes AN times the
    number of videos in proportion to how many each submitted. Raises ``InputError`` as ``evaluate`` does.
    """
    tiou = np.array([float(each) for each in tiou_thresholds])
    if not len(tiou) or not ((tiou > 0) & (tiou <= 1)).all():
        raise InputError(f"tIoU thresholds {tiou.tolist()}: allowed are one or more in (0, 1]")
    if not proposals or min(proposals) < 1:
        raise InputError(f"numbers of proposals {list(proposals)}: allowed are whole numbers of at least 1")
    if len(ground_truth) == 0:
        raise InputError("ground truth: no instances, allowed is at least one")
    if detections.score is None:
        raise InputError("detections: no scores, allowed is a score for each")
    videos, truth_video = np.unique(ground_truth.video, return_inverse=True)
    rank = np.argsort(-np.asarray(detections.score, dtype=np.float64), kind="stable")
    video = codes(detections.video, videos)[rank]
    start, end = (np.asarray(column, dtype=np.float64)[rank] for column in (detections.start, detections.end))
    most = max(proposals)
    recalled = np.zeros((len(proposals), len(ground_truth)))
    for each in range(len(videos)):
        mine, theirs = np.flatnonzero(video == each)[:most], np.flatnonzero(truth_video == each)
        if len(mine) == 0:
            continue
        first, last = ground_truth.start[theirs][:, None], ground_truth.end[theirs][:, None]
        inner = (np.minimum(end[mine], last) - np.maximum(start[mine], first)).clip(min=0)
        union = (end - start)[mine] + (last - first) - inner
        overlap = np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)
        best = np.maximum.accumulate(overlap, axis=1)
        for row, number in enumerate(proposals):
            reached = best[:, min(number, len(mine)) - 1]
            recalled[row, theirs] = (reached[:, None] >= tiou[None]).mean(axis=1)
    return {int(number): float(value) for number, value in zip(proposals, recalled.mean(axis=1), strict=True)}
