"""Soft-NMS one pair at a time, in plain Python: slow, and what the fast one must equal."""

from __future__ import annotations

import math

Segment = tuple[float, float]


def tiou(first: Segment, second: Segment, epsilon: float = 1e-6) -> float:
    inner = max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
    return inner / ((first[1] - first[0] + epsilon) + (second[1] - second[0] + epsilon) - inner)


def one_class(
    segments: list[Segment], scores: list[float], soft: bool, threshold: float, sigma: float, least: float
) -> list[tuple[int, float]]:
    """Return (index, score) in the order taken."""
    waiting = dict(enumerate(scores))
    if not soft and least > 0:
        waiting = {index: score for index, score in waiting.items() if score > least}
    taken = []
    while waiting:
        best = max(waiting, key=lambda index: (waiting[index], -index))
        taken.append((best, waiting.pop(best)))
        for index in list(waiting):
            overlap = tiou(segments[best], segments[index])
            if soft:
                waiting[index] *= math.exp(-(overlap**2) / sigma)
                if waiting[index] < least:
                    del waiting[index]
            elif overlap >= threshold:
                del waiting[index]
    return taken


def vote(segment: Segment, segments: list[Segment], scores: list[float], threshold: float) -> Segment:
    overlaps = [tiou(segment, other, 0.0) for other in segments]
    weights = [
        score * overlap if overlap >= threshold else 0.0
        for overlap, score in zip(overlaps, scores, strict=True)
    ]
    total = sum(weights)
    start = sum(weight * other[0] for weight, other in zip(weights, segments, strict=True)) / total
    end = sum(weight * other[1] for weight, other in zip(weights, segments, strict=True)) / total
    return start, end


def suppress(
    segments: list[Segment],
    scores: list[float],
    labels: list[int],
    soft: bool,
    multiclass: bool,
    threshold: float,
    sigma: float,
    least: float,
    most: int,
    voting: float,
) -> list[tuple[Segment, float, int]]:
    """Return (segment, score, label), best first."""
    found: list[tuple[Segment, float, int]] = []
    for label in sorted(set(labels)) if multiclass else [None]:
        group = [index for index, each in enumerate(labels) if label is None or each == label]
        taken = one_class(
            [segments[i] for i in group], [scores[i] for i in group], soft, threshold, sigma, least
        )
        for position, score in taken[:most]:
            segment = segments[group[position]]
            if not multiclass and voting > 0:
                segment = vote(segment, segments, scores, voting)
            found.append((segment, score, labels[group[position]]))
    return sorted(found, key=lambda each: -each[1])[:most]
