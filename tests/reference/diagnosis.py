"""DETAD's error analysis one detection at a time, in plain Python: slow, and what the fast one must equal."""

from __future__ import annotations

from reference.evaluation import tiou

Instance = tuple[str, str, float, float]  # video, label, start, end
Detection = tuple[str, str, float, float, float]  # and score


def matches(instances: list[Instance], detections: list[Detection], threshold: float) -> dict[int, int]:
    """The instance that each detection takes, by their numbers."""
    taken: dict[int, int] = {}
    for number in sorted(range(len(detections)), key=lambda each: -detections[each][4]):
        video, label, start, end, _ = detections[number]
        best = None
        for index, (other, name, first, last) in enumerate(instances):
            if (other, name) != (video, label) or index in taken.values():
                continue
            overlap = tiou((start, end), (first, last))
            if overlap >= threshold and (best is None or overlap > best[0]):
                best = (overlap, index)
        if best is not None:
            taken[number] = best[1]
    return taken


def kind(instances: list[Instance], detection: Detection, threshold: float) -> str:
    """What a detection that took no instance is."""
    video, label, start, end, _ = detection
    overlaps = [
        (tiou((start, end), (first, last)), name == label)
        for other, name, first, last in instances
        if other == video
    ]
    overlap, same = max(overlaps, default=(0.0, False))
    if overlap >= threshold:
        return "double detection" if same else "wrong label"
    if overlap >= 0.1:
        return "localization" if same else "confusion"
    return "background"


def profile(
    instances: list[Instance], detections: list[Detection], thresholds: list[float], multiple: int
) -> dict[str, float]:
    """Shares of kinds among the detections of the multiple-th G of every class (from 0)."""
    counts: dict[str, int] = {}
    for threshold in thresholds:
        taken = matches(instances, detections, threshold)
        for label in {instance[1] for instance in instances}:
            total = sum(instance[1] == label for instance in instances)
            mine = [number for number, detection in enumerate(detections) if detection[1] == label]
            mine.sort(key=lambda each: -detections[each][4])
            for number in mine[multiple * total : (multiple + 1) * total]:
                found = "true positive" if number in taken else kind(instances, detections[number], threshold)
                counts[found] = counts.get(found, 0) + 1
    whole = sum(counts.values())
    return {name: count / whole for name, count in counts.items()}


def missed(instances: list[Instance], detections: list[Detection], thresholds: list[float]) -> list[float]:
    """The share of thresholds at which each instance is missed."""
    labels = {instance[1] for instance in instances}
    mean = len(instances) / len(labels)
    times = [0] * len(instances)
    for threshold in thresholds:
        taken = matches(instances, detections, threshold)
        for label in labels:
            total = sum(instance[1] == label for instance in instances)
            mine = [number for number, detection in enumerate(detections) if detection[1] == label]
            hits = 0
            for place, number in enumerate(sorted(mine, key=lambda each: -detections[each][4]), start=1):
                hits += number in taken
                weight = hits / total * mean
                if number in taken and weight / (weight + place - hits) > 0.05:
                    times[taken[number]] += 1
    return [1 - count / len(thresholds) for count in times]
