"""Whether training and test instances come from the same source clips, by annotations and pictures."""

from __future__ import annotations

from collections import Counter
from typing import Any

from datasets.annotations.dataset import Dataset
from datasets.annotations.reader import video_path
from datasets.leaks.shots import BACKGROUND, find_shots, label_of, nearest_of


def examine(dataset: Dataset, training: str, testing: str) -> dict[str, Any]:
    """Return measures of what test shots share with training shots, as JSON values.

    ``lengths``: by class and subset, numbers of instances by length in seconds (0.01): many of one length
    were cut from one clip. ``nearest_colours``: of the test shots, by true label, the number, how many are
    nearest, by mean frame, to a training shot of the same label, and the medians of the difference in grey
    levels to the nearest training shot of the same label and to the nearest of another.
    """
    lengths: dict[str, dict[str, dict[str, int]]] = {}
    for subset in (training, testing):
        for video in dataset.subset(subset):
            for each in video.instances:
                counts = lengths.setdefault(each.label, {}).setdefault(subset, Counter())
                counts[f"{each.end - each.start:.2f}"] += 1
    shots = {
        subset: [
            (shot, label_of(shot, video.instances))
            for video in dataset.subset(subset)
            for shot in find_shots(video_path(dataset, video))
        ]
        for subset in (training, testing)
    }
    labels = sorted({label for _, label in shots[training]})
    same = {name: nearest_of(pair for pair in shots[training] if pair[1] == name) for name in labels}
    rows: dict[str, list[tuple[bool, float, float]]] = {}
    for shot, label in shots[testing]:
        to = {name: nearest.label(shot)[1] for name, nearest in same.items()}
        others = [value for name, value in to.items() if name != label]
        if label in to and others:
            rows.setdefault(label, []).append((to[label] < min(others), to[label], min(others)))
    instances = [row for name, found in rows.items() if name != BACKGROUND for row in found]
    return {
        "lengths": {
            name: {subset: dict(sorted(counts.items())) for subset, counts in of.items()}
            for name, of in sorted(lengths.items())
        },
        "nearest_colours": {
            **{name: _summary(rows[name]) for name in sorted(rows)},
            "all instances": _summary(instances),
        },
    }


def _summary(rows: list[tuple[bool, float, float]]) -> dict[str, Any]:
    middle = len(rows) // 2
    return {
        "shots": len(rows),
        "right": sum(right for right, _, _ in rows),
        "median_difference_same": round(sorted(same for _, same, _ in rows)[middle], 2) if rows else None,
        "median_difference_other": round(sorted(other for _, _, other in rows)[middle], 2) if rows else None,
    }
