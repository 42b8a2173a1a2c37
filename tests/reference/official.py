"""The official ActivityNet detection metric, one detection, threshold and instance at a time.

Written plainly after the behaviour of Evaluation/eval_detection.py (github.com/activitynet/ActivityNet), with
its order of rows, its sorts (`argsort()[::-1]`, unstable) and its 0/0; for bit-for-bit comparisons.
"""

from __future__ import annotations

import numpy as np

Row = tuple[str, str, float, float]  # video, label, start, end


def tious(segment: tuple[float, float], others: np.ndarray) -> np.ndarray:
    """Return (n,): tIoU with each of ``others`` (n, 2); NaN for two segments of zero length."""
    inner = (np.minimum(segment[1], others[:, 1]) - np.maximum(segment[0], others[:, 0])).clip(0)
    union = (others[:, 1] - others[:, 0]) + (segment[1] - segment[0]) - inner
    with np.errstate(all="ignore"):
        return inner / union


def area(precision: np.ndarray, recall: np.ndarray) -> float:
    """Return the area under the precision made monotone, as the Pascal VOC kit of 2011 computes it."""
    padded, reached = np.hstack([[0], precision, [0]]), np.hstack([[0], recall, [1]])
    for index in range(len(padded) - 2, -1, -1):
        padded[index] = max(padded[index], padded[index + 1])
    steps = np.where(reached[1:] != reached[:-1])[0] + 1
    return np.sum((reached[steps] - reached[steps - 1]) * padded[steps])


def class_ap(instances: list[Row], found: list[tuple[Row, float]], thresholds: list[float]) -> list[float]:
    """Return the AP of one class at each threshold."""
    if not found:
        return [0.0 for _ in thresholds]
    order = np.array([score for _, score in found]).argsort()[::-1]
    result = []
    for threshold in thresholds:
        taken: set[int] = set()
        right = np.zeros(len(found))
        for rank, index in enumerate(order):
            (video, _, start, end), _ = found[index]
            mine = [number for number, row in enumerate(instances) if row[0] == video]
            if not mine:
                continue
            overlap = tious((start, end), np.array([instances[number][2:] for number in mine]))
            for best in overlap.argsort()[::-1]:
                if overlap[best] < threshold:  # never true of NaN
                    break
                if mine[best] not in taken:
                    taken.add(mine[best])
                    right[rank] = 1
                    break
        hits, misses = np.cumsum(right), np.cumsum(1 - right)
        result.append(area(hits / (hits + misses), hits / float(len(instances))))
    return result


def evaluate(
    instances: list[Row], found: list[tuple[Row, float]], thresholds: list[float]
) -> tuple[dict[str, list[float]], list[float], float]:
    """Return AP by class, in order of first instances, mAP at each threshold, and their mean."""
    labels = list(dict.fromkeys(row[1] for row in instances))
    ap = np.zeros((len(thresholds), len(labels)))
    for column, label in enumerate(labels):
        mine = [row for row in instances if row[1] == label]
        ap[:, column] = class_ap(mine, [each for each in found if each[0][1] == label], thresholds)
    means = ap.mean(axis=1)
    return dict(zip(labels, ap.T.tolist(), strict=True)), means.tolist(), float(means.mean())
