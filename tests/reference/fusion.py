"""Detections with a classifier's classes, one pair at a time, in plain Python: what the fast must equal."""

from __future__ import annotations

import math

Detection = tuple[float, float, float, int]  # start, end, score, class


def fused(
    segments: list[tuple[float, float]], scores: list[float], class_scores: list[float], top: int
) -> list[Detection]:
    """Return every segment with each of the best classes, best first."""
    left = dict(enumerate(class_scores))
    found: list[Detection] = []
    while left and top > 0:
        best = max(left, key=lambda number: (left[number], -number))
        for (start, end), score in zip(segments, scores, strict=True):
            found.append((start, end, math.sqrt(left[best] * score), best))
        del left[best]
        top -= 1
    return sorted(found, key=lambda each: -each[2])
