"""Counts of what an evaluation was given, and a remedy for video ids that match nothing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection

import numpy as np

from bench.detection.segments import Floats, Indices
from bench.io.text import printable

TRIED_IDS = 200
"""Ids that are searched for the affix; all ids are counted."""
LONGEST_AFFIX = 40


@dataclasses.dataclass(frozen=True)
class Counts:
    """Counts of the input of an evaluation."""

    videos: int
    """Videos with at least one instance."""
    instances: int
    detections: int
    detections_in_unknown_videos: int
    """Detections in videos without any instance: false positives, if their label is known."""
    detections_of_unknown_labels: int
    """Detections of labels without any instance. They belong to no class and change no result."""
    classes_without_detections: int
    """Classes without a detection; their AP is 0."""
    duplicate_instances: int
    """Instances that repeat an earlier one of their video and class, within a millisecond."""
    instances_of_zero_length: int
    detections_of_zero_length: int
    """Those of known labels."""
    detections_of_zero_length_at_such_instances: int
    """Of these, those with an instance of zero length in their class and video: official matches."""
    detections_of_equal_score: int
    """Detections of known labels whose score another detection of their class has."""
    detections_of_equal_tiou: int
    """Detections with the same tIoU, at least the lowest threshold, with two or more instances."""


def equal_scores(label: Indices, score: Floats) -> int:
    """Return the number of detections whose score another detection of the same label has."""
    order = np.lexsort((score, label))
    label, score = label[order], score[order]
    same = (label[1:] == label[:-1]) & (score[1:] == score[:-1])
    return int((np.append(same, False) | np.insert(same, 0, False)).sum())


def matching_affix(found: Collection[str], known: Collection[str]) -> str | None:
    """Return how most ids of ``found`` would become ids of ``known``, for a message; None if none would.

    Tried are leaving out and adding a prefix, a suffix, or a prefix and a suffix (``v_``, ``.mp4``).
    """
    found, known = set(found), set(known)
    best, number = "", 0
    for change, longer, shorter in (("without", found, known), ("with", known, found)):
        for (before, after), _ in _affixes(longer, shorter).most_common(5):
            end = -len(after) or None
            matched = sum(
                each.startswith(before) and each.endswith(after) and each[len(before) : end] in shorter
                for each in longer
            )
            if matched > number:
                names = [
                    f"the {kind} {printable(text)!r}"
                    for kind, text in (("prefix", before), ("suffix", after))
                    if text
                ]
                best, number = f"{change} {' and '.join(names)}", matched
    return f"{number} of {len(found)} video ids would match {best}" if number else None


def _affixes(longer: Collection[str], shorter: Collection[str]) -> Counter[tuple[str, str]]:
    """Return how often each prefix and suffix, left out of a ``longer`` id, leaves a ``shorter`` one."""
    counts: Counter[tuple[str, str]] = Counter()
    for each in sorted(longer)[:TRIED_IDS]:
        length = len(each)
        for begin in range(min(length, LONGEST_AFFIX)):
            for end in range(max(begin + 1, length - LONGEST_AFFIX), length + 1):
                if each[begin:end] in shorter:
                    counts[each[:begin], each[end:]] += 1
    return counts
