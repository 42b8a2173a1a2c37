"""Features in files as clips."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bench.config.protocol import Protocol
from bench.data.feature_files import read_features
from bench.data.feature_times import Description, checked_features, read_description
from bench.data.time_grid import TimeGrid
from datasets.annotations.dataset import Dataset, Video


@dataclasses.dataclass(frozen=True)
class FeatureClips:
    """A video's features as clips of ``steps_per_clip`` steps, (t, D) float32, read on demand.

    The last clip is padded with its last step.
    """

    path: Path
    video: str
    grid: TimeGrid
    steps: int
    """Number of steps, after resizing."""
    valid_steps: int
    width: int
    resized_from: int | None = None
    """Number of features that are interpolated linearly to ``steps``; None: they are used as they are."""

    @property
    def count(self) -> int:
        return -(-self.steps // self.grid.steps_per_clip)

    @property
    def source(self) -> str | None:
        """None: features are not cached on disk, where they are already."""
        return None

    @property
    def clip_bytes(self) -> int:
        return 4 * self.grid.steps_per_clip * self.width

    def pick(self, indices: NDArray[np.int64]) -> Tensor:
        """Return a new (n, t, D) float32 tensor for consecutive clip numbers; the last may repeat."""
        first, last = int(indices[0]), int(indices[-1]) + 1
        return torch.from_numpy(self.part(first, last)[indices - first])

    def part(self, first: int, last: int) -> NDArray[Any]:
        """Return the clips ``first`` to ``last - 1``, (n, t, D) float32."""
        steps = self.grid.steps_per_clip
        stored = read_features(self.path, self.video)
        if self.resized_from is not None:
            stored = resized_features(stored[: self.resized_from], self.steps)
        rows = np.minimum(np.arange(first * steps, last * steps), self.steps - 1)
        # Of a file that is mapped into memory, only these rows are read.
        values: NDArray[Any] = np.asarray(stored[rows[0] : rows[-1] + 1], np.float32)[rows - rows[0]]
        return values.reshape(last - first, steps, self.width)


def resized_features(features: NDArray[Any], steps: int) -> NDArray[np.float32]:
    """Return features (T, D) interpolated linearly to (steps, D), as ActionFormer's ``anet.py`` does."""
    if len(features) == steps:
        return np.asarray(features, np.float32)
    whole = torch.from_numpy(np.array(features.T, np.float32))[None]
    resized = F.interpolate(whole, steps, mode="linear", align_corners=False)[0]
    return np.asarray(resized.numpy().T, np.float32)


def feature_clips(
    dataset: Dataset, video: Video, protocol: Protocol, description: Description | None = None
) -> FeatureClips:
    """Return a video's features as clips, after the checks of ``checked_features``.

    Step i is at (i * stride + window / 2) / rate seconds, as in ActionFormer's ``thumos14.py``. With "fixed"
    resampling, features are interpolated to the steps of one window, which lie evenly in the time that the
    features cover, as in its ``anet.py``. Raises InputError that names the file.
    """
    found, width = checked_features(dataset, video, protocol, description), protocol.feature_width
    assert width is not None
    times, steps = found.times, protocol.steps_per_clip or 1
    if protocol.resampling == "fixed":
        resized = protocol.window_clips * steps
        seconds = video.duration if times is None else times.covered(found.shown)
        grid = TimeGrid(resized / seconds, 1, steps)
        return FeatureClips(found.path, video.id, grid, resized, resized, width, found.shown)
    assert times is not None
    grid = TimeGrid(times.rate, times.stride, steps, times.window / 2 / times.stride)
    return FeatureClips(found.path, video.id, grid, found.count, found.shown, width)


def all_feature_clips(
    dataset: Dataset, videos: Iterable[Video], protocol: Protocol
) -> dict[str, FeatureClips]:
    """Return the clips of videos by id; raise InputError for the first wrong file."""
    description = read_description(dataset.root)
    return {video.id: feature_clips(dataset, video, protocol, description) for video in videos}
