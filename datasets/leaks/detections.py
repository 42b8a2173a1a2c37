"""Detections without a detector: every shot of a test video, with a class that needs no training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from datasets.annotations.dataset import ACTION, Dataset
from datasets.annotations.reader import video_path
from datasets.leaks.shots import BACKGROUND, Shot, find_shots, label_of, nearest_of

Rule = Literal["one-class", "most-frequent", "nearest-colours"]
RULES: Mapping[Rule, str] = {
    "one-class": "every shot is an action (compare with a ground truth of one class)",
    "most-frequent": "every shot is of the class with most training instances",
    "nearest-colours": "a shot is of the class of the training shot with the most similar mean frame",
}


def detect(dataset: Dataset, rule: Rule, training: str, testing: str) -> dict[str, list[dict[str, Any]]]:
    """Return detections of the videos of ``testing`` by id, as ActivityNet's JSON has them.

    Scores are the strength of the weaker cut; with ``nearest-colours`` they decrease with the difference to
    the training shot, and shots nearest to background are left out. Raises ``InputError``
    for a subset that does not exist and a video that cannot be read.
    """
    label = _rule(dataset, rule, training)
    found: dict[str, list[dict[str, Any]]] = {}
    for video in dataset.subset(testing):
        found[video.id] = []
        for shot in find_shots(video_path(dataset, video)):
            name, score = label(shot)
            if name != BACKGROUND:
                segment = [round(shot.start, 4), round(shot.end, 4)]
                found[video.id].append({"segment": segment, "label": name, "score": round(score, 6)})
    return found


def _rule(dataset: Dataset, rule: Rule, training: str) -> Any:
    """Return the function that gives a shot its label and its score in [0, 1]."""
    if rule == "nearest-colours":
        nearest = nearest_of(
            (shot, label_of(shot, video.instances))
            for video in dataset.subset(training)
            for shot in find_shots(video_path(dataset, video))
        )

        def by_colours(shot: Shot) -> tuple[str, float]:
            label, difference = nearest.label(shot)
            return label, 1 - difference / 255

        return by_colours
    counts = Counter(each.label for video in dataset.subset(training) for each in video.instances)
    most = max(sorted(counts), key=counts.__getitem__) if rule == "most-frequent" else ACTION
    return lambda shot: (most, shot.strength / 255)


def submission(found: Mapping[str, list[dict[str, Any]]]) -> str:
    """Return a file of detections in ActivityNet's format."""
    return json.dumps({"version": "1.0", "results": found, "external_data": {}}, indent=None) + "\n"
