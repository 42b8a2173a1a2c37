"""Annotations with other labels or subsets: labels shuffled, one label for all, tuning videos held out."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from bench.io.errors import InputError
from datasets.annotations.dataset import ACTION
from datasets.annotations.formats import read_file
from datasets.annotations.imports.formats import activitynet_json
from datasets.cards.cards import TUNING


def shuffled(source: Path, subset: str, seed: int) -> bytes:
    """Return the annotations as ActivityNet's JSON, the labels of a subset's instances permuted.

    Times and the number of instances of every class stay; other subsets are unchanged. Raises ``InputError``
    for annotations that cannot be read and a subset without instances.
    """
    database, name = _database(source)
    entries = _instances(database, subset)
    labels = [each["label"] for each in entries]
    if not labels:
        known = ", ".join(sorted({str(video.get("subset")) for video in database.values()}))
        raise InputError(f"{source.name}: subset: no instances in {subset[:60]!r}, known are {known}")
    random.Random(seed).shuffle(labels)
    for each, label in zip(entries, labels, strict=True):
        each["label"] = label
    return activitynet_json(database, name)


def one_class(source: Path) -> bytes:
    """Return the annotations as ActivityNet's JSON with one label for all instances."""
    database, name = _database(source)
    for each in _instances(database, None):
        each["label"] = ACTION
    return activitynet_json(database, name)


def held_out(source: Path, subset: str, fraction: float) -> bytes:
    """Return the annotations as ActivityNet's JSON, the last videos of a subset by id in the subset `tuning`.

    Their number is ``fraction`` of the subset's, rounded, at least one and not all. Raises ``InputError`` for
    a subset of fewer than two videos and if there is a subset of that name.
    """
    database, name = _database(source)
    subsets = {str(video.get("subset")) for video in database.values()}
    ids = sorted(key for key, video in database.items() if video.get("subset") == subset)
    if len(ids) < 2 or TUNING in subsets:
        known = ", ".join(sorted(subsets))
        raise InputError(
            f"{source.name}: subset: allowed is one of two or more videos beside none of the name {TUNING!r}"
            f", got {subset[:60]!r}, known are {known}"
        )
    count = min(len(ids) - 1, max(1, round(len(ids) * fraction)))
    for key in ids[-count:]:
        database[key]["subset"] = TUNING
    return activitynet_json(database, name)


def _database(source: Path) -> tuple[dict[str, Any], str]:
    file = read_file(source)
    if not isinstance(file.database, dict) or not all(
        isinstance(each, dict) for each in file.database.values()
    ):
        raise InputError(f"{file.name}: database: an object of videos is needed")
    return file.database, file.name


def _instances(database: dict[str, Any], subset: str | None) -> list[dict[str, Any]]:
    return [
        each
        for video in database.values()
        if subset is None or video.get("subset") == subset
        for each in video.get("annotations", ())
    ]
