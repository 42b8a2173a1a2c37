"""Match detections to instances by temporal IoU, for all thresholds together."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from bench.detection.segments import Floats, Indices


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of a detection and an instance of its class and video whose tIoU reaches the lowest threshold.

    Sorted by detection (its rank), then by the detection's preference among its instances.
    """

    detection: Indices
    instance: Indices
    overlap: Floats
    """tIoU; infinite where the official code's 0/0 counts as a match."""
    detections: int
    instances: int
    equal: int
    """Number of detections that have the same tIoU with two or more of their instances."""
    empty: int
    """Number of detections of zero length with an instance of zero length in their class and video."""


def pair(
    truth: tuple[Indices, Floats, Floats],
    found: tuple[Indices, Floats, Floats],
    lowest: float,
    *,
    official: bool = False,
) -> Pairs:
    """Return the pairs whose tIoU is at least ``lowest``.

    ``truth`` and ``found`` are columns: group (a class in a video; -1 for none), start and end in seconds;
    detections are sorted by rank. Of instances with equal tIoU the earlier one comes first, and the tIoU of
    two segments of zero length is 0. With ``official``, instances have the order of NumPy's
    ``argsort()[::-1]`` over the tIoUs with all instances of the group, and 0/0 comes first.
    """
    (truth_group, truth_start, truth_end), (group, start, end) = truth, found
    order = np.argsort(truth_group, kind="stable")
    first = np.searchsorted(truth_group[order], group, side="left")
    number = np.searchsorted(truth_group[order], group, side="right") - first
    # Every pair of a detection and an instance of its group, by detection.
    begin = np.cumsum(number) - number
    one = np.repeat(np.arange(len(group)), number)
    other = order[np.arange(len(one)) - np.repeat(begin, number) + np.repeat(first, number)]
    inner = np.minimum(end[one], truth_end[other]) - np.maximum(start[one], truth_start[other])
    inner = inner.clip(min=0)
    union = (end - start)[one] + (truth_end - truth_start)[other] - inner
    both_empty = (union == 0) & (inner == 0)
    overlap = np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)
    raw = overlap
    if official:
        with np.errstate(divide="ignore", invalid="ignore"):
            raw = inner / union
        # The official code tests whether a tIoU is below the threshold; NaN is not, so it is a match.
        overlap = np.where(np.isnan(raw), np.inf, raw)
    else:
        # Without the distant pairs, which are most, sorting is fast; the official order depends on them.
        close = overlap >= lowest
        one, other, overlap = one[close], other[close], overlap[close]
    by_preference = np.lexsort((-overlap, one))
    tied = _tied(one[by_preference], overlap[by_preference], lowest)
    if official:
        for each in np.unique(tied):
            mine = slice(begin[each], begin[each] + number[each])
            by_preference[mine] = begin[each] + raw[mine].argsort()[::-1]
    one, other, overlap = one[by_preference], other[by_preference], overlap[by_preference]
    finite = np.isfinite(overlap)
    equal = len(np.unique(_tied(one[finite], overlap[finite], lowest)))
    empty = int(np.count_nonzero(np.bincount(np.repeat(np.arange(len(group)), number)[both_empty])))
    close = overlap >= lowest
    return Pairs(one[close], other[close], overlap[close], len(group), len(truth_group), equal, empty)


def _tied(one: Indices, overlap: Floats, lowest: float) -> Indices:
    """Return the detections (with repeats) that have the same tIoU in two neighbouring pairs."""
    same = (one[1:] == one[:-1]) & (overlap[1:] == overlap[:-1]) & (overlap[1:] >= lowest)
    tied: Indices = one[1:][same]
    return tied


def match(pairs: Pairs, tiou: Floats) -> Indices:
    """Return (thresholds, instances): the rank of the matched detection, or their number if there is none.

    Visiting detections by rank and matching each to its best free instance gives the unique stable matching
    of detections that prefer by tIoU and instances that prefer by rank. Therefore all detections propose at
    once, instances keep the best rank, and a rejected detection proposes to its next instance (Gale-Shapley):
    a few rounds of array operations, for all thresholds together.
    """
    one, other, overlap, count = pairs.detection, pairs.instance, pairs.overlap, pairs.detections
    first = np.searchsorted(one, np.arange(count))
    # Preferences are sorted by descending tIoU, so a threshold keeps a prefix of each detection's list.
    length = np.stack([np.bincount(one[overlap >= each], minlength=count) for each in tiou])
    free = count  # worse than any rank
    holder = np.full((len(tiou), pairs.instances), free)
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
