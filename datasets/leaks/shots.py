"""Shots of a video, the parts between its cuts, found by the difference of neighbouring frames."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.io.errors import InputError
from datasets.annotations.dataset import Instance
from datasets.video.frames import probe, read_frames

Picture = NDArray[np.float32]
SIZE = 16
"""Pixels, height and width, at which frames are compared."""
CUT = 30.0
"""Mean difference of two neighbouring frames, in grey levels of 0 to 255, from which there is a cut.

Chosen after looking at the stitched videos: 99 % of their annotated boundaries have 40 or more, 99.5 % of the
other frames less than 23.
"""
BACKGROUND = "background"


@dataclasses.dataclass(frozen=True)
class Shot:
    """A part of a video between two cuts."""

    start: float
    """Seconds."""
    end: float
    strength: float
    """The smaller difference at its two cuts, in grey levels; 0 at the video's first and last frame."""
    colours: Picture
    """Mean of its frames, (SIZE, SIZE, 3), in grey levels."""


def find_shots(path: Path) -> tuple[Shot, ...]:
    """Return the shots of a video file in order of time; raise ``InputError`` if it cannot be read."""
    info = probe(path)
    rate = info.frames_per_second
    times = (np.arange(max(1, round(info.duration * rate))) + 0.5) / rate
    return shots_of(read_frames(path, times, SIZE).astype(np.float32), rate)


def shots_of(frames: Picture, rate: float) -> tuple[Shot, ...]:
    """Return the shots of frames (T, h, w, 3) in grey levels, ``rate`` frames per second."""
    differences = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    cuts = [0, *(np.flatnonzero(differences >= CUT) + 1).tolist(), len(frames)]
    strengths = [0.0, *differences[differences >= CUT].tolist(), 0.0]
    return tuple(
        Shot(
            first / rate,
            last / rate,
            min(strengths[place], strengths[place + 1]),
            frames[first:last].mean(axis=0),
        )
        for place, (first, last) in enumerate(itertools.pairwise(cuts))
    )


def label_of(shot: Shot, instances: Iterable[Instance]) -> str:
    """Return the label of the instance that covers more than half of a shot, or ``background``."""
    for each in instances:
        common = min(shot.end, each.end) - max(shot.start, each.start)
        if common > (shot.end - shot.start) / 2:
            return each.label
    return BACKGROUND


@dataclasses.dataclass(frozen=True)
class Nearest:
    """The shot of most similar colours among labelled ones."""

    pictures: Picture
    """(N, SIZE, SIZE, 3)."""
    labels: tuple[str, ...]

    def label(self, shot: Shot) -> tuple[str, float]:
        """Return the label of the most similar shot and the mean difference in grey levels."""
        differences = np.abs(self.pictures - shot.colours).mean(axis=(1, 2, 3))
        place = int(differences.argmin())
        return self.labels[place], float(differences[place])


def nearest_of(shots: Iterable[tuple[Shot, str]]) -> Nearest:
    """Return a classifier by the nearest of labelled shots; raise ``InputError`` if there are none."""
    pairs = tuple(shots)
    if not pairs:
        raise InputError("training: no shots, allowed is a data set with training videos")
    return Nearest(np.stack([shot.colours for shot, _ in pairs]), tuple(label for _, label in pairs))
