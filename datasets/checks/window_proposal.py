"""Propose window length, stride and regression ranges from the lengths of a data set's instances."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.io.errors import InputError

RATES = (5.0, 10.0, 15.0, 30.0)
SHORTEST_STEPS = 4.0
"""Feature steps that a short instance should span: boundaries are predicted to about half a step."""
FIRST_RANGE_STEPS = 4
MAX_WINDOW_CLIPS = 256


@dataclass(frozen=True)
class Proposal:
    """Proposed sampling and windows of a data set's videos; fields have the protocol's names.

    `regression_steps` are the head's ranges in feature steps, the last unbounded; `fitting` is the fraction
    of instances that are no longer than a window, `resolved` of those that span at least four steps.
    """

    frames_per_second: float
    window_clips: int
    window_overlap: float
    levels: int
    regression_steps: tuple[tuple[int, int], ...]
    window_seconds: float
    stride_seconds: float
    fitting: float
    resolved: float

    @property
    def protocol(self) -> str:
        """Return the proposal in the form of `PROTOCOL="..."`."""
        return (
            f"frames_per_second={self.frames_per_second:g} window_clips={self.window_clips} "
            f"window_overlap={self.window_overlap:g} head.levels={self.levels}"
        )


def propose(
    lengths: Sequence[float],
    file_rate: float = 30.0,
    clip_frames: int = 16,
    frames_per_step: int = 2,
) -> Proposal:
    """Return a proposal for instances of given lengths (seconds) in files of `file_rate` frames per second.

    The frame rate is the least of 5, 10, 15 and 30 (and not above the files') at which the 10th percentile
    of the lengths spans four steps. A window is 1.5 times the 98th percentile long, at most 256 clips.
    Windows overlap by the 90th percentile, so that nine of ten instances are completely inside one, rounded
    to quarters of a window from 0.25 to 0.75. Levels double ActionFormer's first range of 4 steps until half
    of the 98th percentile fits. These are rules of thumb, a baseline for experiments. Raises `InputError`
    without an instance of positive length.
    """
    spans = np.array([length for length in lengths if math.isfinite(length) and length > 0])
    if len(spans) == 0:
        raise InputError("proposal: no instance of positive length, at least one is needed")
    short, usual, long = np.percentile(spans, (10, 90, 98))
    rates = [rate for rate in RATES if rate <= file_rate * 1.01] or [file_rate]
    rate = next((rate for rate in rates if short * rate / frames_per_step >= SHORTEST_STEPS), rates[-1])
    clip_seconds = clip_frames / rate
    clips = min(max(4, 4 * math.ceil(1.5 * long / clip_seconds / 4)), MAX_WINDOW_CLIPS)
    window = clips * clip_seconds
    overlap = min(max(math.ceil(4 * usual / window) / 4, 0.25), 0.75)
    half = long / 2 * rate / frames_per_step
    levels = min(max(2, math.ceil(math.log2(max(half / FIRST_RANGE_STEPS, 1))) + 2), 8)
    bounds = [0, *(FIRST_RANGE_STEPS * 2**level for level in range(levels - 1)), 10000]
    return Proposal(
        frames_per_second=rate,
        window_clips=clips,
        window_overlap=overlap,
        levels=levels,
        regression_steps=tuple(itertools.pairwise(bounds)),
        window_seconds=window,
        stride_seconds=window * (1 - overlap),
        fitting=float(np.mean(spans <= window)),
        resolved=float(np.mean(spans * rate / frames_per_step >= SHORTEST_STEPS)),
    )
