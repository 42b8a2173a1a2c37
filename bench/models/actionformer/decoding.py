"""Detections from the scores of all points, on the host.

How many points pass the threshold depends on the video, so this part runs in NumPy: the memory of the device
then depends on shapes alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bench.models.actionformer.config import TestConfig

Detections = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]
"""Segments (n, 2) in steps of the feature grid, scores (n,), and labels (n,)."""


@dataclasses.dataclass(frozen=True)
class LevelScores:
    """One level of the pyramid, as tensors or as arrays: T points, K classes, B windows."""

    points: Any
    """(T, 4): position, least and greatest distance to regress, stride."""
    probability: Any
    """(B, T, K); 0 where a point is padding."""
    offsets: Any
    """(B, T, 2): distances to start and end in units of the stride."""

    def on_host(self) -> LevelScores:
        """Return the level as NumPy arrays."""
        tensors: tuple[Tensor, ...] = (self.points, self.probability, self.offsets)
        return LevelScores(*(tensor.cpu().numpy() for tensor in tensors))


def decode(levels: Sequence[LevelScores], config: TestConfig) -> list[Detections]:
    """Return the detections of every window, from arrays."""
    windows = range(len(levels[0].probability))
    return [
        tuple(
            np.concatenate(parts)  # type: ignore[misc]
            for parts in zip(*(_decode(level, window, config) for level in levels), strict=True)
        )
        for window in windows
    ]


def _decode(level: LevelScores, window: int, config: TestConfig) -> Detections:
    classes = level.probability.shape[-1]
    probability = level.probability[window].reshape(-1)
    order = np.flatnonzero(probability > config.pre_nms_thresh)
    best = order[np.argsort(-probability[order], kind="stable")[: config.pre_nms_topk]]
    where = best // classes
    position, stride = level.points[where, 0], level.points[where, 3]
    start = position - level.offsets[window, where, 0] * stride
    end = position + level.offsets[window, where, 1] * stride
    keep = (end - start) > config.duration_thresh
    segments = np.stack((start, end), axis=1)
    return segments[keep], probability[best][keep], (best % classes)[keep]
