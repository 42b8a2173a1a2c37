"""Mean average precision over temporal IoU, as the official ActivityNet evaluator defines it.

Heilbron et al., CVPR 2015, and the challenge's evaluation code; vectorized here. Ours and the official code
(ActivityNet, Evaluation/eval_detection.py) agree except in these cases:

- Differs: two segments of zero length. The official code divides 0 by 0, and as NaN is not below any
  threshold, the detection matches the instance, wherever the two lie in the video, and before any other
  instance. Here their tIoU is 0, and an instance of zero length is never detected.
- Differs: the order of equal scores in a class, and of equal tIoUs of a detection. The official code leaves
  both to ``argsort()[::-1]``, NumPy's default sort: unstable, and dependent on the number of values, NumPy's
  version and the processor's instruction set. Here equal scores keep the order of the input, and of equal
  tIoUs the earlier instance is tried first.
- Differs: detections of labels without an instance. The official code stops with a KeyError. Here they are
  counted and change no result.
- Same: detections in videos without an instance are false positives of their class.

``evaluate(..., official=True)`` reproduces the first two, and the official order of all sums, bit for bit,
with the same NumPy on the same kind of processor. The official code asks a server for a list of blocked
videos, which is no longer there; nothing is blocked here. Python 2, for which it was written, read objects in
an order of its own; here, as in Python 3, videos have the file's order.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.detection.counts import Counts, equal_scores, matching_affix
from bench.detection.matching import match, pair, right_of
from bench.detection.segments import Floats, Indices, Segments, codes, duplicates
from bench.io.errors import InputError


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Average precision, as fractions."""

    tiou: tuple[float, ...]
    classes: tuple[str, ...]
    """Labels of the ground truth, sorted."""
    ap: Floats
    """(classes, thresholds)."""
    map: tuple[float, ...]
    """Mean over classes at each threshold."""
    average: float
    """Mean of ``map`` over the thresholds."""
    counts: Counts
    official: bool = False
    """Whether ties and segments of zero length are treated as by the official code."""
    suggestion: str | None = None
    """If all detections are in unknown videos: the prefix or suffix with which video ids would match."""


def evaluate(
    ground_truth: Segments,
    detections: Segments,
    tiou_thresholds: Sequence[float],
    *,
    official: bool = False,
) -> Evaluation:
    """Return the average precision of ``detections`` for every class of ``ground_truth`` and threshold.

    Within a class and at one threshold, detections are visited in order of descending score. Each is matched
    to the instance of its video that has the highest tIoU of at least the threshold and is not yet matched;
    if there is one, the detection is a true positive. AP is the area under the precision made monotone. A
    class without detections has AP 0. With ``official``, the numbers are those of the official code, bit for
    bit, if rows have the order of its files (the module's docstring says what differs otherwise). Raises
    ``InputError`` for an empty ground truth, detections without scores, and thresholds outside of (0, 1].
    """
    tiou = tuple(float(each) for each in tiou_thresholds)
    if not tiou or not all(0 < each <= 1 for each in tiou):
        raise InputError(f"tIoU thresholds {tiou}: allowed are one or more in (0, 1]")
    if len(ground_truth) == 0:
        raise InputError("ground truth: no instances, allowed is at least one")
    if detections.score is None:
        raise InputError("detections: no scores, allowed is a score for each")

    classes, first, truth_class = np.unique(ground_truth.label, return_index=True, return_inverse=True)
    videos, truth_video = np.unique(ground_truth.video, return_inverse=True)
    found_class = codes(detections.label, classes)
    found_video = codes(detections.video, videos)
    score = np.asarray(detections.score, dtype=np.float64)
    # From here on detections are numbered by rank, best first; those of unknown labels are removed.
    rank = _official_rank(score, found_class) if official else np.argsort(-score, kind="stable")
    rank = rank[found_class[rank] >= 0]
    label = found_class[rank]
    start, end = (np.asarray(column, dtype=np.float64)[rank] for column in (detections.start, detections.end))
    truth_start, truth_end = (
        np.asarray(column, dtype=np.float64) for column in (ground_truth.start, ground_truth.end)
    )
    group = np.where(found_video[rank] >= 0, found_video[rank] * len(classes) + label, -1)
    pairs = pair(
        (truth_video * len(classes) + truth_class, truth_start, truth_end),
        (group, start, end),
        min(tiou),
        official=official,
    )
    right = right_of(match(pairs, np.asarray(tiou)), len(rank))
    instances = np.bincount(truth_class, minlength=len(classes))
    if official:
        ap, means, average = _official_means(right, label, instances, np.argsort(first))
    else:
        ap = average_precision(right, label, instances)
        means = ap.mean(axis=0)
        average = float(means.mean())
    counts = Counts(
        videos=len(videos),
        instances=len(ground_truth),
        detections=len(detections),
        detections_in_unknown_videos=int((found_video < 0).sum()),
        detections_of_unknown_labels=int((found_class < 0).sum()),
        classes_without_detections=len(classes) - len(np.unique(label)),
        duplicate_instances=int(duplicates(ground_truth).sum()),
        instances_of_zero_length=int((truth_start == truth_end).sum()),
        detections_of_zero_length=int((start == end).sum()),
        detections_of_zero_length_at_such_instances=pairs.empty,
        detections_of_equal_score=equal_scores(label, score[rank]),
        detections_of_equal_tiou=pairs.equal,
    )
    lost = len(detections) > 0 and counts.detections_in_unknown_videos == len(detections)
    suggestion = matching_affix(set(detections.video.tolist()), set(videos.tolist())) if lost else None
    names = tuple(str(each) for each in classes)
    return Evaluation(tiou, names, ap, tuple(map(float, means)), average, counts, official, suggestion)


def average_precision(right: NDArray[np.bool_], label: Indices, instances: Indices) -> Floats:
    """Return (classes, thresholds): the area under the interpolated precision of every class."""
    ap = np.zeros((len(instances), len(right)))
    order = np.argsort(label, kind="stable")
    starts = np.searchsorted(label[order], np.arange(len(instances) + 1))
    for index, total in enumerate(instances):
        mine = right[:, order[starts[index] : starts[index + 1]]]
        if mine.shape[1] == 0:
            continue
        precision = mine.cumsum(axis=1) / np.arange(1, mine.shape[1] + 1)
        best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        ap[index] = (best_from_here * mine).sum(axis=1) / total
    return ap


def _official_rank(score: Floats, label: Indices) -> Indices:
    """Return the detections of known labels, class by class, in the official order of their scores."""
    order = np.argsort(label, kind="stable")
    bounds = np.searchsorted(label[order], np.arange(label.max(initial=-1) + 2))
    classes = [order[begin:end] for begin, end in itertools.pairwise(bounds)]
    ranks = [mine[score[mine].argsort()[::-1]] for mine in classes]
    return np.concatenate(ranks) if ranks else order[:0]


def _official_means(
    right: NDArray[np.bool_], label: Indices, instances: Indices, order: Indices
) -> tuple[Floats, Floats, float]:
    """Return AP (classes, thresholds), its means over classes and their mean, summed in the official order.

    ``label`` is sorted. ``order`` is the official order of classes: that of their first instances.
    """
    ap = np.zeros((len(right), len(instances)))
    bounds = np.searchsorted(label, np.arange(len(instances) + 1))
    for place, index in enumerate(order):
        mine = right[:, bounds[index] : bounds[index + 1]]
        if mine.shape[1] == 0:
            continue
        hits = mine.cumsum(axis=1)
        precision = hits / np.arange(1, mine.shape[1] + 1)
        recall = hits / float(instances[index])
        for level in range(len(right)):
            padded = np.hstack([[0], precision[level], [0]])
            best_from_here = np.maximum.accumulate(padded[::-1])[::-1]
            reached = np.hstack([[0], recall[level], [1]])
            steps = np.flatnonzero(reached[1:] != reached[:-1]) + 1
            ap[level, place] = np.sum((reached[steps] - reached[steps - 1]) * best_from_here[steps])
    means = ap.mean(axis=1)
    # ``order`` gives the class of each column; the result has the classes sorted by name.
    return ap[:, np.argsort(order)].T.copy(), means, float(means.mean())
