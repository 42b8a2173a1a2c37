"""Features in files as clips: their times, a check against durations, and the description beside exports."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bench.config.protocol import Protocol
from bench.data.feature_files import feature_path, read_features
from bench.data.time_grid import TimeGrid
from bench.io.errors import InputError
from bench.io.reading import read_json
from datasets.annotations.dataset import Dataset, Video

DESCRIPTION = "features.json"
"""The file beside exported features that describes them."""
TOLERATED_SECONDS, TOLERATED_SHARE = 1.0, 0.01
"""Largest difference between a video's duration and what its features cover, besides a window and a stride.

Extractors leave out or pad up to a window at the end, and sound may last a second longer than the picture.
The frames of all 412 THUMOS-14 videos in windows of 16 at a stride of 4 cover their durations up to 0.22 s. A
wrong rate is an error of at least 4 % (24 for 25 frames per second), a wrong stride one of 20 %.
"""


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


@dataclasses.dataclass(frozen=True)
class FeatureTimes:
    """Where features lie in a video: feature i shows the frames i * stride to i * stride + window."""

    rate: float
    """Frames per second of the video."""
    window: float
    stride: float

    def covered(self, count: int) -> float:
        """Return the seconds that ``count`` features cover."""
        return ((count - 1) * self.stride + self.window) / self.rate

    def check(self, path: Path, count: int, duration: float) -> None:
        """Raise InputError with the numbers if ``count`` features do not cover a video's duration."""
        seconds = self.covered(count)
        tolerated = (self.window + self.stride) / self.rate + TOLERATED_SECONDS + TOLERATED_SHARE * duration
        if abs(seconds - duration) <= tolerated:
            return
        expected = max(1, 1 + int((duration * self.rate - self.window) / self.stride))
        raise InputError(
            f"{path}: {count} features cover {seconds:.1f} s (one every {self.stride:g} frames, "
            f"{self.window:g} frames each, {self.rate:g} frames per second), but the video lasts "
            f"{duration:.1f} s, for which {expected} are expected"
        )


def feature_times(video: Video, protocol: Protocol) -> FeatureTimes | None:
    """Return where a video's features lie; None where they are spread over the whole video.

    They are spread with "fixed" resampling and without ``clip_frames``. Raises InputError for a video without
    a rate in the annotations where the protocol takes it from there.
    """
    frames = protocol.clip_frames
    if frames is None:
        if protocol.resampling == "fixed":
            return None
        raise InputError(
            "protocol: field 'clip_frames' is none, with --model features the frames of a feature are needed "
            "(none is allowed with resampling=fixed, for features that are spread over the video)"
        )
    rate = protocol.frames_per_second
    if protocol.frame_rate == "video":
        if video.frames_per_second is None:
            raise InputError(f"{video.id}: no fps in the annotations, which frame_rate=video needs")
        rate = video.frames_per_second
    steps = protocol.steps_per_clip or 1
    return FeatureTimes(rate, frames / steps, (protocol.clip_stride or frames) / steps)


@dataclasses.dataclass(frozen=True)
class Description:
    """The description beside exported features (``bench.features``)."""

    path: Path
    times: FeatureTimes | None
    """None for features that are spread over the whole video."""
    steps: Mapping[str, int]
    """For each video the number of steps that show it; later ones are padding."""

    def check(self, times: FeatureTimes | None) -> None:
        """Raise InputError with both values unless the features lie where the protocol says."""
        if times == self.times:
            return
        texts = [
            "are spread over the video"
            if each is None
            else f"have a window of {each.window:g} frames and a stride of {each.stride:g} at {each.rate:g}/s"
            for each in (self.times, times)
        ]
        raise InputError(f"{self.path}: the features {texts[0]}, by the protocol they {texts[1]}")


def read_description(folder: Path) -> Description | None:
    """Return the description of the features in a folder, or None if there is none; raise InputError."""
    path = folder / DESCRIPTION
    if not path.is_file():
        return None
    content = read_json(path, finite=True)
    try:
        values = content["times"]
        times = None if values is None else FeatureTimes(*(float(values[name]) for name in TIMES))
        return Description(path, times, {str(name): int(count) for name, count in content["steps"].items()})
    except (TypeError, LookupError, AttributeError, ValueError):
        raise InputError(f"{path}: is no description of features by bench.features") from None


TIMES = tuple(field.name for field in dataclasses.fields(FeatureTimes))


def feature_clips(
    dataset: Dataset, video: Video, protocol: Protocol, description: Description | None = None
) -> FeatureClips:
    """Return a video's features as clips, after a check of their shape and against the duration.

    Step i is at (i * stride + window / 2) / rate seconds, as in ActionFormer's ``thumos14.py``. With "fixed"
    resampling, features are interpolated to the steps of one window, which lie evenly in the time that the
    features cover, as in its ``anet.py``. Raises InputError that names the file.
    """
    path = feature_path(dataset, video)
    count, width = read_features(path, video.id).shape
    if width != protocol.feature_width:
        swapped = " (T and D are swapped)" if count == protocol.feature_width else ""
        raise InputError(
            f"{path}: {count} features of {width} channels{swapped}, the protocol's feature_width is "
            f"{protocol.feature_width}"
        )
    times, steps, valid = feature_times(video, protocol), protocol.steps_per_clip or 1, count
    if description is not None:
        description.check(times)
        valid = description.steps.get(video.id, 0)
        if not 0 < valid <= count:
            raise InputError(f"{path}: {count} features, but {valid} by {DESCRIPTION} beside it")
    if times is not None:
        times.check(path, valid, video.duration)
    if protocol.resampling == "fixed":
        resized = protocol.window_clips * steps
        seconds = video.duration if times is None else times.covered(valid)
        grid = TimeGrid(resized / seconds, 1, steps)
        return FeatureClips(path, video.id, grid, resized, resized, width, resized_from=valid)
    assert times is not None
    grid = TimeGrid(times.rate, times.stride, steps, times.window / 2 / times.stride)
    return FeatureClips(path, video.id, grid, count, valid, width)


def check_features(dataset: Dataset, protocol: Protocol) -> None:
    """Check the files of both subsets before anything runs.

    Raises InputError for the first wrong file, with the number of wrong files if there are several.
    """
    if protocol.augmentation != "none":
        raise InputError(
            f"protocol: field 'augmentation' is {protocol.augmentation}, only none with --model features"
        )
    wrong = list(wrong_files(dataset, protocol))
    if wrong:
        more = f"; {len(wrong)} such errors, bench.doctor --model features lists them"
        raise InputError(wrong[0] + (more if len(wrong) > 1 else ""))


def wrong_files(dataset: Dataset, protocol: Protocol) -> Iterator[str]:
    """Yield what is wrong with the files of a run's two subsets."""
    description = read_description(dataset.root)
    used = {protocol.training_subset, protocol.evaluation_subset}
    for video in (each for each in dataset.videos if each.subset in used):
        try:
            feature_clips(dataset, video, protocol, description)
        except InputError as error:
            yield str(error)


def all_feature_clips(
    dataset: Dataset, videos: Iterable[Video], protocol: Protocol
) -> dict[str, FeatureClips]:
    """Return the clips of videos by id; raise InputError for the first wrong file."""
    description = read_description(dataset.root)
    return {video.id: feature_clips(dataset, video, protocol, description) for video in videos}
