"""Error diagnosis of a detector: kinds of false positives, and the instances that it misses.

After DETAD (Alwassel, Caba Heilbron, Escorcia and Ghanem, Diagnosing Error in Temporal Action Detectors,
ECCV 2018, sections 4 and 6), with its thresholds. A detection that matches no instance is compared with the
instance of highest tIoU among all classes of its video, by tIoU t and threshold a:

    double detection  t >= a,        same label         wrong label  t >= a,        another label
    localization      0.1 <= t < a,  same label         confusion    0.1 <= t < a,  another label
    background        t < 0.1

Differs: of instances of equal tIoU, one of the detection's own label counts (THUMOS has every CliffDiving
as a Diving too; DETAD takes the first in the file). Differs: gains are of mAP, not of DETAD's normalised mAP.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.detection.evaluation import average_precision
from bench.detection.matching import match, pair, right_of
from bench.detection.segments import Floats, Indices, Segments, codes
from bench.io.errors import InputError

KINDS = ("true positive", "double detection", "wrong label", "localization", "confusion", "background")
MULTIPLES = 10
BACKGROUND_TIOU = 0.1
LEAST_PRECISION = 0.05
"""An instance counts as found if its detection's normalised precision is above (DETAD's code, section 6)."""


@dataclasses.dataclass(frozen=True)
class Bins:
    """Inclusive upper bounds of the groups of instances; the last group has no bound."""

    name: str
    length_seconds: tuple[float, ...]
    coverage: tuple[float, ...]
    """Share of the video that the instance covers."""
    instances: tuple[float, ...]
    """Instances of its class in its video."""


THUMOS = Bins("thumos", (3, 6, 12, 18), (0.02, 0.04, 0.06, 0.08), (1, 40, 80))
ACTIVITYNET = Bins("activitynet", (30, 60, 120, 180), (0.2, 0.4, 0.6, 0.8), (1, 4, 8))


def diagnose(
    ground_truth: Segments,
    detections: Segments,
    tiou_thresholds: Sequence[float],
    durations: Mapping[str, float] | None = None,
    bins: Bins | None = None,
) -> dict[str, Any]:
    """Return the errors of ``detections`` as JSON values; shares are means over the thresholds.

    ``false_positives[g]`` splits the detections that are, within their class, the (g+1)-th G of highest
    score, G being the class's number of instances: the share of each kind among them. ``gain`` is what the
    average mAP of the first ten G would gain without the detections of a kind. ``false_negatives`` gives,
    for each group of instances, their number and the share that is missed. Coverage needs ``durations`` by
    video, in seconds. ``bins`` are DETAD's for THUMOS where the median instance is shorter than 15 s, else
    those for ActivityNet. Raises InputError as ``evaluate`` does, and for a video without a duration.
    """
    tiou = np.array([float(each) for each in tiou_thresholds])
    if not len(tiou) or not ((tiou > BACKGROUND_TIOU) & (tiou <= 1)).all():
        raise InputError(f"tIoU thresholds {tiou.tolist()}: allowed are one or more in (0.1, 1]")
    if len(ground_truth) == 0:
        raise InputError("ground truth: no instances, allowed is at least one")
    if detections.score is None:
        raise InputError("detections: no scores, allowed is a score for each")
    if bins is None:
        bins = THUMOS if np.median(ground_truth.end - ground_truth.start) < 15 else ACTIVITYNET
    classes, truth_class = np.unique(ground_truth.label, return_inverse=True)
    videos, truth_video = np.unique(ground_truth.video, return_inverse=True)
    totals = np.bincount(truth_class, minlength=len(classes))
    rank = np.argsort(-np.asarray(detections.score, dtype=np.float64), kind="stable")
    rank = rank[codes(detections.label, classes)[rank] >= 0]
    label = codes(detections.label, classes)[rank]
    video = codes(detections.video, videos)[rank]
    start, end = (np.asarray(column, dtype=np.float64)[rank] for column in (detections.start, detections.end))
    truth_start, truth_end = (
        np.asarray(column, dtype=np.float64) for column in (ground_truth.start, ground_truth.end)
    )
    pairs = pair(
        (truth_video * len(classes) + truth_class, truth_start, truth_end),
        (np.where(video >= 0, video * len(classes) + label, -1), start, end),
        tiou.min(),
    )
    holder = match(pairs, tiou)
    right = right_of(holder, len(rank))
    place = _place_in_class(label, len(classes))
    group = place // totals[label]
    overlap, same = _closest(ground_truth, truth_video, truth_class, video, label, start, end)
    kinds = _kinds(right, overlap, same, tiou)
    return {
        "source": "DETAD",
        "tiou": tiou.tolist(),
        "bins": dataclasses.asdict(bins),
        "false_positives": [_shares(kinds[:, group == multiple]) for multiple in range(MULTIPLES)],
        "gain": _gains(right, kinds, label, group < MULTIPLES, totals),
        "false_negatives": _missed(
            ground_truth, durations, bins, truth_class, truth_video, _found(holder, right, label, totals)
        ),
    }


def _place_in_class(label: Indices, classes: int) -> Indices:
    """Return how many detections of the same class have a better rank than each detection."""
    place = np.zeros(len(label), dtype=np.int64)
    for each in range(classes):
        mine = np.flatnonzero(label == each)
        place[mine] = np.arange(len(mine))
    return place


def _closest(
    truth: Segments,
    truth_video: Indices,
    truth_class: Indices,
    video: Indices,
    label: Indices,
    start: Floats,
    end: Floats,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return (detections,): the highest tIoU in the video, and whether an instance of its label has it."""
    best, same = np.zeros(len(video)), np.zeros(len(video), dtype=bool)
    for each in np.unique(video[video >= 0]):
        mine, theirs = np.flatnonzero(video == each), np.flatnonzero(truth_video == each)
        first, last = truth.start[theirs][None], truth.end[theirs][None]
        inner = np.minimum(end[mine, None], last) - np.maximum(start[mine, None], first)
        inner = inner.clip(min=0)
        union = (end - start)[mine, None] + (last - first) - inner
        overlap = np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)
        best[mine] = overlap.max(axis=1)
        own = label[mine, None] == truth_class[theirs][None]
        same[mine] = ((overlap == best[mine, None]) & own).any(axis=1)
    return best, same


def _kinds(right: NDArray[np.bool_], overlap: Floats, same: NDArray[np.bool_], tiou: Floats) -> Indices:
    """Return (thresholds, detections): the index in KINDS of each."""
    over = overlap[None] >= tiou[:, None]
    near = np.where(same, KINDS.index("localization"), KINDS.index("confusion"))
    near = np.where(overlap >= BACKGROUND_TIOU, near, KINDS.index("background"))
    kinds = np.where(over, np.where(same, KINDS.index("double detection"), KINDS.index("wrong label")), near)
    return np.asarray(np.where(right, 0, kinds), dtype=np.int64)


def _shares(kinds: Indices) -> dict[str, Any]:
    """Return the number of detections and the share of every kind, over all thresholds."""
    counts = np.bincount(kinds.reshape(-1), minlength=len(KINDS))
    shares = (counts / max(kinds.size, 1)).tolist()
    return {"detections": kinds.shape[1], **dict(zip(KINDS, shares, strict=True))}


def _gains(
    right: NDArray[np.bool_], kinds: Indices, label: Indices, kept: NDArray[np.bool_], totals: Indices
) -> dict[str, float]:
    """Return the gain in average mAP without the detections of each kind, among those that are kept."""

    def average(dropped: int | None) -> float:
        values = []
        for level, own in zip(right, kinds, strict=True):
            stay = kept & (own != dropped) if dropped is not None else kept
            values.append(average_precision(level[None, stay], label[stay], totals).mean())
        return float(np.mean(values))

    before = average(None)
    return {kind: average(number) - before for number, kind in enumerate(KINDS) if number}


def _found(holder: Indices, right: NDArray[np.bool_], label: Indices, totals: Indices) -> NDArray[np.bool_]:
    """Return (thresholds, instances): whether a detection of enough normalised precision matches it.

    Normalised precision at a rank is R·N / (R·N + false positives), with the class's recall R and the mean
    number N of instances of a class.
    """
    mean = totals.mean()
    enough = np.zeros((right.shape[0], right.shape[1] + 1), dtype=bool)
    for each, total in enumerate(totals):
        mine = np.flatnonzero(label == each)
        hits = right[:, mine].cumsum(axis=1)
        weight = hits / total * mean
        misses = np.arange(1, len(mine) + 1) - hits
        enough[:, mine] = weight > LEAST_PRECISION * (weight + misses)
    return np.take_along_axis(enough, holder, axis=1)


def _missed(
    truth: Segments,
    durations: Mapping[str, float] | None,
    bins: Bins,
    truth_class: Indices,
    truth_video: Indices,
    found: NDArray[np.bool_],
) -> dict[str, Any]:
    """Return number and missed share of the instances of every group, and of all."""
    length = np.asarray(truth.end - truth.start, dtype=np.float64)
    pair = truth_video * (int(truth_class.max()) + 1) + truth_class
    values = {"length_seconds": length, "instances": np.bincount(pair)[pair].astype(np.float64)}
    if durations is not None:
        if lost := sorted({str(name) for name in truth.video} - durations.keys()):
            raise InputError(f"durations: none for {lost[0][:80]!r}, one for each video is needed")
        values["coverage"] = length / np.array([durations[str(name)] for name in truth.video])
    missed = 1 - found.mean(axis=0)
    result: dict[str, Any] = {"all": {"instances": len(length), "missed": float(missed.mean())}}
    for name, value in values.items():
        bounds: tuple[float, ...] = getattr(bins, name)
        group = np.searchsorted(np.array(bounds), value, side="left")
        shown = [*(f"<= {bound:g}" for bound in bounds), f"> {bounds[-1]:g}"]
        result[name] = {}
        for number, title in enumerate(shown):
            chosen = missed[group == number]
            share = float(chosen.mean()) if len(chosen) else None
            result[name][title] = {"instances": len(chosen), "missed": share}
    return result
