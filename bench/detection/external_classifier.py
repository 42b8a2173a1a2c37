"""Scores of an external classifier of whole videos, and detections that take their classes from it.

This is the practice on ActivityNet: a head detects class-agnostic actions, and a classifier of the whole
video, such as that of CUHK's entry to the challenge of 2017 (Zhao et al., arXiv 1710.08011), assigns classes.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from bench.io.errors import InputError
from bench.io.reading import MAX_DATA_BYTES, named_in_errors, read_bytes, read_json
from bench.io.text import short
from bench.io.typed_values import MAX_FLOAT, structure

Floats = NDArray[np.float64]
NAMED = 3


Score = Annotated[float, Meta(ge=0, le=MAX_FLOAT, description="a finite number of 0 or more")]
ClassNames = Annotated[list[str], Meta(min_length=1, description="a list of the classes' names")]


class ScoresFile(msgspec.Struct):
    """A file of scores by video."""

    results: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """The scores of a classifier for some videos."""

    name: str
    """Its file's name and the first digits of its SHA-256, as in the protocol."""
    scores: Mapping[str, Floats]
    """Scores (K,) by video, in the order of the data set's classes."""


def classifier_name(path: Path) -> str:
    """Return the name of a file of scores in a protocol; raise InputError if it cannot be read."""
    try:
        digest = hashlib.sha256(read_bytes(path, MAX_DATA_BYTES)).hexdigest()
    except InputError as error:
        raise InputError(f"--classifier: {error}") from None
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', path.name)} {digest[:12]}"


def read_class_scores(path: Path, videos: Collection[str], classes: Sequence[str]) -> ClassScores:
    """Return the scores of ``videos``, with classes ordered as in ``classes``.

    The file (``.json`` or ``.json.gz``) has CUHK's format: ``results`` has a list of scores for each video,
    and ``class`` (or ``classes``) their class names. A video is looked up by its id, then with ActivityNet's
    prefix ``v_``, then without it. Raises InputError that names the file if the classes differ from the data
    set's, if videos have no scores, and if scores are negative or not finite.
    """
    with named_in_errors(path):
        content = read_json(path)
        results = structure(ScoresFile, content).results
        names = structure(ClassNames, content.get("class", content.get("classes")), ("class",))
    order = _order(names, classes, path)
    found: dict[str, Floats] = {}
    absent: list[str] = []
    for video in videos:
        keys = (video, f"v_{video}", video.removeprefix("v_"))
        key = next((key for key in keys if key in results), None)
        if key is None:
            absent.append(video)
        else:
            with named_in_errors(path):
                row = structure(_scores(len(order)), results[key], ("results", key))
            found[video] = np.array(row, dtype=np.float64)[order]
    if absent:
        more = ", ..." if len(absent) > NAMED else ""
        names = ", ".join(short(video)[1:-1] for video in absent[:NAMED])
        raise InputError(
            f"{path}: results: no scores for {len(absent)} of {len(videos)} videos: {names}{more}"
        )
    return ClassScores(classifier_name(path), found)


def _order(names: Sequence[str], classes: Sequence[str], path: Path) -> NDArray[np.int64]:
    """Return the index in the file of each of ``classes``."""
    place = {name: number for number, name in enumerate(names)}
    twice = [name for name, number in place.items() if names.index(name) != number]
    lacking = [name for name in classes if name not in place]
    foreign = [name for name in place if name not in set(classes)]
    for what, wrong in (
        ("is there twice", twice),
        ("of the data set is missing", lacking),
        ("is none of the data set's", foreign),
    ):
        if wrong:
            others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise InputError(
                f"{path}: class: {short(wrong[0])} {what}{others}; allowed are its {len(classes)} classes"
            )
    return np.array([place[name] for name in classes], dtype=np.int64)


@functools.cache
def _scores(count: int) -> Any:
    """Return the type of the scores of one video."""
    words = f"a list of {count} scores, one a class"
    return Annotated[list[Score], Meta(min_length=count, max_length=count, description=words)]


def fuse(
    segments: NDArray[Any], scores: NDArray[Any], class_scores: Floats, top: int
) -> tuple[NDArray[Any], Floats, NDArray[np.int64]]:
    """Return segments (k n, 2), scores (k n,) and class numbers (k n,), best first.

    Each of n segments (n, 2) is returned once for each of the k = min(``top``, K) classes of highest score
    (the first of equal ones). Its score is the geometric mean of its own and the class's: ActionFormer's
    release, libs/utils/postprocessing.py, ``postprocess_results``. Of equal scores, a better class is first.
    """
    best = np.argsort(-class_scores, kind="stable")[:top]
    fused = np.sqrt(class_scores[best][:, None] * scores.astype(np.float64)[None]).reshape(-1)
    rank = np.argsort(-fused, kind="stable")
    return np.tile(segments, (len(best), 1))[rank], fused[rank], np.repeat(best, len(segments))[rank]
