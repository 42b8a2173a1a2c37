"""Mean average precision over temporal IoU, as the official ActivityNet evaluator defines it.

Heilbron et al., CVPR 2015, and the challenge's evaluation code; vectorized here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.io.errors import InputError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Names = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Segments:
    """A table of n segments, one column per field. Times are in seconds; only detections have a ``score``."""

    video: Names
    label: Names
    start: Floats
    end: Floats
    score: Floats | None = None

    def __post_init__(self) -> None:
        columns = [self.label, self.start, self.end] + ([] if self.score is None else [self.score])
        if any(np.shape(column) != (len(self.video),) for column in columns):
            shapes = [np.shape(column) for column in (self.video, *columns)]
            raise InputError(f"segments: columns of shapes {shapes}, allowed are columns of one length")

    def __len__(self) -> int:
        return len(self.video)


@dataclasses.dataclass(frozen=True)
class Counts:
    """Counts of the input of an evaluation."""

    videos: int
    """Videos with at least one instance."""
    instances: int
    detections: int
    detections_in_unknown_videos: int
    """Detections in videos without any instance: false positives, if their label is known."""
    detections_of_unknown_labels: int
    """Detections of labels without any instance. They belong to no class and change no result."""
    classes_without_detections: int
    """Classes without a detection; their AP is 0."""


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


def evaluate(ground_truth: Segments, detections: Segments, tiou_thresholds: Sequence[float]) -> Evaluation:
    """Return the average precision of ``detections`` for every class of ``ground_truth`` and threshold.

    Within a class and at one threshold, detections are visited in order of descending score. Each is matched
    to the instance of its video that has the highest tIoU of at least the threshold and is not yet matched;
    if there is one, the detection is a true positive. AP is the area under the precision made monotone. Equal
    scores keep their input order (the official code leaves that order to an unstable sort); of equal tIoUs
    the earlier instance is tried first. A class without detections has AP 0. Raises ``InputError`` for an
    empty ground truth, detections without scores, and thresholds outside of (0, 1].
    """
    tiou = tuple(float(each) for each in tiou_thresholds)
    if not tiou or not all(0 < each <= 1 for each in tiou):
        raise InputError(f"tIoU thresholds {tiou}: allowed are one or more in (0, 1]")
    if len(ground_truth) == 0:
        raise InputError("ground truth: no instances, allowed is at least one")
    if detections.score is None:
        raise InputError("detections: no scores, allowed is a score for each")

    classes, truth_class = np.unique(ground_truth.label, return_inverse=True)
    videos, truth_video = np.unique(ground_truth.video, return_inverse=True)
    found_class = codes(detections.label, classes)
    found_video = codes(detections.video, videos)
    # From here on detections are numbered by rank, best first; those of unknown labels are removed.
    rank = np.argsort(-np.asarray(detections.score, dtype=np.float64), kind="stable")
    rank = rank[found_class[rank] >= 0]
    label = found_class[rank]
    group = np.where(found_video[rank] >= 0, found_video[rank] * len(classes) + label, -1)
    holder = match(
        truth_video * len(classes) + truth_class,
        np.asarray(ground_truth.start, dtype=np.float64),
        np.asarray(ground_truth.end, dtype=np.float64),
        group,
        np.asarray(detections.start, dtype=np.float64)[rank],
        np.asarray(detections.end, dtype=np.float64)[rank],
        np.asarray(tiou),
    )
    right = right_of(holder, len(rank))
    ap = average_precision(right, label, np.bincount(truth_class, minlength=len(classes)))
    means = ap.mean(axis=0)
    counts = Counts(
        videos=len(videos),
        instances=len(ground_truth),
        detections=len(detections),
        detections_in_unknown_videos=int((found_video < 0).sum()),
        detections_of_unknown_labels=int((found_class < 0).sum()),
        classes_without_detections=len(classes) - len(np.unique(label)),
    )
    names = tuple(str(each) for each in classes)
    return Evaluation(tiou, names, ap, tuple(map(float, means)), float(means.mean()), counts)


def codes(values: Names, known: Names) -> Indices:
    """Return the index of every value in the sorted ``known``, or -1."""
    table = {name: index for index, name in enumerate(known.tolist())}
    return np.fromiter((table.get(value, -1) for value in np.asarray(values).tolist()), np.int64, len(values))


def match(
    truth_group: Indices,
    truth_start: Floats,
    truth_end: Floats,
    group: Indices,
    start: Floats,
    end: Floats,
    tiou: Floats,
) -> Indices:
    """Return (thresholds, instances): the rank of the matched detection, or their number if there is none.

    A group is a class in a video. Visiting detections by rank and matching each to its best free instance
    gives the unique stable matching of detections that prefer by tIoU and instances that prefer by rank.
    Therefore all detections propose at once, instances keep the best rank, and a rejected detection proposes
    to its next instance (Gale-Shapley): a few rounds of array operations, for all thresholds together.
    """
    order = np.argsort(truth_group, kind="stable")
    first = np.searchsorted(truth_group[order], group, side="left")
    number = np.searchsorted(truth_group[order], group, side="right") - first
    # Every pair of a detection and an instance of its group, by detection.
    one = np.repeat(np.arange(len(group)), number)
    other = order[
        np.arange(len(one)) - np.repeat(np.cumsum(number) - number, number) + np.repeat(first, number)
    ]
    inner = np.minimum(end[one], truth_end[other]) - np.maximum(start[one], truth_start[other])
    inner = inner.clip(min=0)
    union = (end - start)[one] + (truth_end - truth_start)[other] - inner
    overlap = np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)
    close = overlap >= tiou.min()
    one, other, overlap = one[close], other[close], overlap[close]
    by_preference = np.lexsort((-overlap, one))
    one, other, overlap = one[by_preference], other[by_preference], overlap[by_preference]
    first = np.searchsorted(one, np.arange(len(group)))

    # Preferences are sorted by descending tIoU, so a threshold keeps a prefix of each detection's list.
    length = np.stack([np.bincount(one[overlap >= each], minlength=len(group)) for each in tiou])
    free = len(group)  # worse than any rank
    holder = np.full((len(tiou), len(truth_group)), free)
    position = np.zeros_like(length)
    level, who = (length > 0).nonzero()
    while len(who):
        wanted = other[first[who] + position[level, who]]
        before = holder[level, wanted]
        np.minimum.at(holder, (level, wanted), who)
        after = holder[level, wanted]
        lost = after != who
        # One entry per instance whose match changed: the new detection.
        ousted = ~lost & (before != free)
        level = np.concatenate((level[lost], level[ousted]))
        who = np.concatenate((who[lost], before[ousted]))
        position[level, who] += 1
        more = position[level, who] < length[level, who]
        level, who = level[more], who[more]
    return holder


def right_of(holder: Indices, detections: int) -> NDArray[np.bool_]:
    """Return (thresholds, detections): whether each detection, sorted by rank, matches an instance."""
    right = np.zeros((len(holder), detections + 1), dtype=bool)
    right[np.arange(len(holder))[:, None], holder] = True
    return right[:, :-1]


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
