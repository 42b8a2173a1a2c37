"""Average precision one detection at a time, in plain Python: slow, and what the fast one must equal."""

from __future__ import annotations

Instance = tuple[str, float, float]  # video, start, end
Detection = tuple[str, float, float, float]  # video, start, end, score


def tiou(first: tuple[float, float], second: tuple[float, float]) -> float:
    inner = max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
    union = (first[1] - first[0]) + (second[1] - second[0]) - inner
    return inner / union if union > 0 else 0.0


def average_precision(instances: list[Instance], detections: list[Detection], threshold: float) -> float:
    """Return the AP of one class at one threshold."""
    taken: set[int] = set()
    right: list[bool] = []
    for video, start, end, _ in sorted(detections, key=lambda each: -each[3]):
        overlaps = [
            (tiou((start, end), (a, b)), -index)
            for index, (name, a, b) in enumerate(instances)
            if name == video
        ]
        for overlap, index in sorted(overlaps, reverse=True):
            if overlap >= threshold and -index not in taken:
                taken.add(-index)
                right.append(True)
                break
        else:
            right.append(False)
    recall, precision = [0.0], [0.0]
    for number in range(1, len(right) + 1):
        recall.append(sum(right[:number]) / len(instances))
        precision.append(sum(right[:number]) / number)
    recall.append(1.0)
    precision.append(0.0)
    for index in range(len(precision) - 2, -1, -1):
        precision[index] = max(precision[index], precision[index + 1])
    return sum((recall[index] - recall[index - 1]) * precision[index] for index in range(1, len(recall)))
