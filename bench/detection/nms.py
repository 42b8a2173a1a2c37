"""Soft non-maximum suppression of segments, as ActionFormer's release does it.

Bodla et al., ICCV 2017, with Gaussian decay, on intervals; there is no compiled part. Ties: of segments with
equal scores the first one of the input is selected first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from bench.io.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", NDArray[Any], "Tensor")
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

METHODS = ("soft", "hard", "none")
# A segment of zero length still overlaps itself; the release adds the same value.
LENGTH_EPSILON = 1e-6
# The release's function and its configuration files use different names for the same settings.
ALIASES = {"multiclass": "multiclass_nms", "sigma": "nms_sigma", "use_soft_nms": "nms_method"}


def soft_nms(segments: Array, scores: Array, labels: Array, **settings: Any) -> tuple[Array, Array, Array]:
    """Return the remaining segments (m, 2), scores (m,) and labels (m,), best first.

    Takes NumPy arrays or torch tensors, (n, 2), (n,) and (n,), and returns the same kind and types. Settings,
    by ActionFormer's names and with its defaults:

    - ``nms_method`` "soft": each selected segment multiplies the others' scores by exp(-tIoU^2 / nms_sigma);
      "hard": it removes those of tIoU >= iou_threshold; "none": all segments are returned unchanged, in
      their order.
    - ``multiclass_nms``: within each class (true) or over all of them (false).
    - ``iou_threshold`` 0.1, ``nms_sigma`` 0.5, ``min_score`` 0.001 (lower scores are dropped).
    - ``max_seg_num`` 1000: the largest number, per class and in total; 0 or less: no limit per class.
    - ``voting_thresh`` 0.75: only over all classes, boundaries become the mean of the segments of at least
      this tIoU, weighted by score times tIoU; 0: no voting. ActionFormer votes in no other case.

    ``multiclass``, ``sigma`` and ``use_soft_nms`` (bool) are the names of ActionFormer's function for
    ``multiclass_nms``, ``nms_sigma`` and ``nms_method``. Raises ``InputError`` for any other name.
    """
    chosen = _settings(settings)
    as_numpy = [_to_numpy(each) for each in (segments, scores, labels)]
    if as_numpy[0].ndim != 2 or as_numpy[0].shape[1] != 2:
        raise InputError(f"segments of shape {as_numpy[0].shape}: allowed is (n, 2)")
    if not as_numpy[1].shape == as_numpy[2].shape == as_numpy[0].shape[:1]:
        raise InputError(
            f"{len(as_numpy[0])} segments with scores {as_numpy[1].shape} and labels {as_numpy[2].shape}: "
            "allowed is one of each a segment"
        )
    if chosen["nms_method"] == "none" or len(as_numpy[0]) == 0:
        return segments, scores, labels
    kept_segments, kept_scores, kept = _suppress(
        as_numpy[0].astype(np.float64), as_numpy[1].astype(np.float64), as_numpy[2], chosen
    )
    results = (kept_segments, kept_scores, as_numpy[2][kept])
    return cast(
        "tuple[Array, Array, Array]",
        tuple(_like(got, given) for got, given in zip(results, (segments, scores, labels), strict=True)),
    )


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "iou_threshold": 0.1,
        "min_score": 0.001,
        "max_seg_num": 1000,
        "nms_method": "soft",
        "multiclass_nms": True,
        "nms_sigma": 0.5,
        "voting_thresh": 0.75,
    }
    allowed = ", ".join((*chosen, *ALIASES))
    for name, value in given.items():
        known = ALIASES.get(name, name)
        if known not in chosen:
            raise InputError(f"{name}: no such setting of soft_nms, allowed are {allowed}")
        if name == "use_soft_nms":
            value = "soft" if value else "hard"
        chosen[known] = value
    if chosen["nms_method"] not in METHODS:
        raise InputError(f"nms_method {chosen['nms_method']!r}: allowed are {', '.join(METHODS)}")
    if not chosen["nms_sigma"] > 0:
        raise InputError(f"nms_sigma {chosen['nms_sigma']}: allowed is a positive number")
    return chosen


def _suppress(
    segments: Floats, scores: Floats, labels: NDArray[Any], chosen: dict[str, Any]
) -> tuple[Floats, Floats, Indices]:
    if chosen["multiclass_nms"]:
        order = np.argsort(labels, kind="stable")
        group = np.cumsum(np.diff(labels[order], prepend=labels[order[:1]]) != 0)
    else:
        order = np.arange(len(labels))
        group = np.zeros(len(labels), dtype=np.int64)
    taken, kept_scores = _take(segments[order], scores[order], group, chosen)
    kept = order[taken]
    kept_segments = segments[kept]
    if not chosen["multiclass_nms"] and chosen["voting_thresh"] > 0:
        kept_segments = _vote(kept_segments, segments, scores, chosen["voting_thresh"])
    best = np.argsort(-kept_scores, kind="stable")[: max(chosen["max_seg_num"], 0) or None]
    return kept_segments[best], kept_scores[best], kept[best]


def _take(segments: Floats, scores: Floats, group: Indices, chosen: dict[str, Any]) -> tuple[Indices, Floats]:
    """Return the remaining indices, by group in the order they were selected, and their scores.

    ``group`` is ascending. Every round selects the best of each group, so that many small groups need only as
    many array operations as the largest. NaN scores are dropped.
    """
    soft = chosen["nms_method"] == "soft"
    least, threshold, sigma = chosen["min_score"], chosen["iou_threshold"], chosen["nms_sigma"]
    place = np.flatnonzero(scores > least if not soft and least > 0 else ~np.isnan(scores))
    # Scores only decrease, so segments are selected in order of score, and the first ``most`` are the best.
    most = chosen["max_seg_num"] if chosen["max_seg_num"] > 0 else len(place)
    start, end = np.ascontiguousarray(segments[place].T)
    score, own = scores[place], group[place]
    length = end - start + LENGTH_EPSILON
    taken: list[Indices] = []
    values: list[Floats] = []
    while len(place) and len(taken) < most:
        if own[0] == own[-1]:
            best = np.array([score.argmax()])
            rival = best
        else:
            new = np.diff(own, prepend=-1) != 0
            first, number = np.flatnonzero(new), np.cumsum(new) - 1
            highest = np.flatnonzero(score == np.maximum.reduceat(score, first)[number])
            best = highest[np.searchsorted(highest, first)]
            rival = best[number]
        taken.append(place[best])
        values.append(score[best])
        overlap = np.minimum(end, end[rival])
        overlap -= np.maximum(start, start[rival])
        np.maximum(overlap, 0.0, out=overlap)
        overlap /= length + length[rival] - overlap
        if soft:
            # exp() takes most of the time, and most segments do not overlap: their factor is 1.
            near = overlap.nonzero()[0]
            score[near] *= np.exp(overlap[near] * overlap[near] / -sigma)
            stay = score >= least
        else:
            stay = overlap < threshold
        stay[best] = False
        place, own, score, start, end, length = (
            each[stay] for each in (place, own, score, start, end, length)
        )
    if not taken:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    found = np.concatenate(taken)
    by_group = np.argsort(group[found], kind="stable")
    return found[by_group], np.concatenate(values)[by_group]


def _vote(kept: Floats, segments: Floats, scores: Floats, threshold: float) -> Floats:
    """Return ``kept`` with boundaries averaged over the segments that overlap enough.

    The weight of a segment is its original score times its tIoU.
    """
    inner = np.minimum(kept[:, None, 1], segments[None, :, 1]) - np.maximum(
        kept[:, None, 0], segments[None, :, 0]
    )
    inner = inner.clip(min=0)
    lengths = (each[:, 1] - each[:, 0] for each in (kept, segments))
    own, other = lengths
    with np.errstate(divide="ignore", invalid="ignore"):
        overlap = inner / (own[:, None] + other[None, :] - inner)
        weights = np.where(overlap >= threshold, overlap * scores[None, :], 0.0)
        voted = (weights / weights.sum(axis=1, keepdims=True)) @ segments
    return np.where(np.isfinite(voted), voted, kept)


def _to_numpy(values: Any) -> NDArray[Any]:
    if isinstance(values, np.ndarray):
        return values
    return np.asarray(values.detach().cpu().numpy() if hasattr(values, "detach") else values)


def _like(values: NDArray[Any], given: Any) -> Any:
    if not hasattr(given, "detach"):
        return values.astype(np.asarray(given).dtype)
    import torch

    return torch.as_tensor(values).to(dtype=given.dtype, device=given.device)
