"""mAP of resampled test videos: matching is done once, and a resample only changes how often a video counts.

A resample repeats each video some number of times, as separate copies. Detections and instances of different
videos never match, so true positives stay what they are, and the AP of a resample follows from the counts of
true positives and detections at each rank, weighted by their videos' multiplicities. The result is that of
``bench.detection.evaluation.evaluate`` on the copies, if copies of a detection follow it in the input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.detection.matching import match, pair, right_of
from bench.detection.segments import Floats, Indices, Segments, codes

DRAWS_AT_ONCE = 500
"""Resamples that are evaluated together, so that intermediate arrays stay small."""


@dataclasses.dataclass(frozen=True)
class RankedClass:
    """The detections of one class at one threshold: what its AP needs in any resample."""

    video: Indices
    """(P,): the video of each true positive, by rank."""
    above: Floats
    """(P, V): detections of each video up to the rank of each true positive, itself included."""


@dataclasses.dataclass(frozen=True)
class MatchedRun:
    """Matched detections of one run on V videos."""

    instances: Floats
    """(C, V): instances of each class in each video."""
    ranked: tuple[tuple[RankedClass, ...], ...]
    """By threshold, then by class."""


def match_run(
    ground_truth: Segments, detections: Segments, tiou: Sequence[float], videos: Sequence[str]
) -> MatchedRun:
    """Match the detections of one run, as ``evaluate`` does.

    ``videos`` are all test videos in the order of the multiplicities; some may have no instance. Detections
    in other videos are left out.
    """
    assert detections.score is not None
    names = np.array(videos, dtype=str)
    order = np.argsort(names)
    place = np.append(order, -1)  # codes count in sorted names, and -1 is unknown
    classes, truth_class = np.unique(ground_truth.label, return_inverse=True)
    truth_video = place[codes(ground_truth.video, names[order])]
    found_class = codes(detections.label, classes)
    found_video = place[codes(detections.video, names[order])]
    rank = np.argsort(-np.asarray(detections.score, dtype=np.float64), kind="stable")
    rank = rank[(found_class[rank] >= 0) & (found_video[rank] >= 0)]
    label, video = found_class[rank], found_video[rank]
    pairs = pair(
        (truth_video * len(classes) + truth_class, ground_truth.start, ground_truth.end),
        (video * len(classes) + label, detections.start[rank], detections.end[rank]),
        min(tiou),
    )
    right = right_of(match(pairs, np.asarray(tiou, dtype=np.float64)), len(rank))
    instances = np.zeros((len(classes), len(videos)))
    np.add.at(instances, (truth_class, truth_video), 1)
    levels = []
    for level in right:
        members = (np.flatnonzero(label == index) for index in range(len(classes)))
        levels.append(tuple(_ranked(level[mine], video[mine], len(videos)) for mine in members))
    return MatchedRun(instances, tuple(levels))


def _ranked(right: NDArray[np.bool_], video: Indices, videos: int) -> RankedClass:
    hits = np.flatnonzero(right)
    # Only counts at true positives are needed: between them, precision only falls.
    above = np.zeros((len(hits), videos))
    counted = video[: hits[-1] + 1] if len(hits) else video[:0]
    np.add.at(above, (np.searchsorted(hits, np.arange(len(counted))), counted), 1)
    return RankedClass(video[hits], above.cumsum(axis=0))


def resampled_map(run: MatchedRun, draws_BV: NDArray[np.integer]) -> Floats:
    """Return (B,): average mAP, as a fraction, of each resample with these multiplicities of videos.

    As in ``evaluate``, classes without an instance in a resample do not count. A resample without any
    instance has mAP 0.
    """
    parts = [
        _average(run, draws_BV[first : first + DRAWS_AT_ONCE].astype(np.float64))
        for first in range(0, len(draws_BV), DRAWS_AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def _average(run: MatchedRun, draws_BV: Floats) -> Floats:
    total_BC = draws_BV @ run.instances.T
    there = total_BC > 0
    summed = np.zeros(len(draws_BV))
    for level in run.ranked:
        for index, ranked in enumerate(level):
            if len(ranked.video):
                area = _weighted_area(ranked, draws_BV)
                summed += np.divide(area, total_BC[:, index], out=np.zeros_like(area), where=there[:, index])
    classes = there.sum(axis=1) * len(run.ranked)
    average: Floats = np.divide(summed, classes, out=np.zeros_like(summed), where=classes > 0)
    return average


def _weighted_area(ranked: RankedClass, draws_BV: Floats) -> Floats:
    """Return (B,): the sum of the interpolated precision at all copies of true positives."""
    copies_BP = draws_BV[:, ranked.video]
    hits_BP, found_BP = copies_BP.cumsum(axis=1), draws_BV @ ranked.above.T
    # The precision after the last copy of a true positive is the highest of those of its copies.
    precision = np.divide(hits_BP, found_BP, out=np.zeros_like(hits_BP), where=found_BP > 0)
    best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    area: Floats = (copies_BP * best_from_here).sum(axis=1)
    return area
