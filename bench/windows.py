"""From videos to training batches and test windows, on the grid of a backbone's clips."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from bench.models.backbone import BackboneGeometry
from bench.protocol import Protocol
from bench.specification import file_sha256
from datasets.annotations import Dataset, Video, video_path
from datasets.clips import frame_times
from datasets.video import read_frames, readers_installed


@dataclasses.dataclass(frozen=True)
class TimeGrid:
    """How feature steps lie in time. Step k shows the frames around ``seconds(k)``."""

    frames_per_second: float
    frames_per_step: int
    steps_per_clip: int

    @property
    def step_seconds(self) -> float:
        return self.frames_per_step / self.frames_per_second

    def seconds(self, steps: np.ndarray | float) -> np.ndarray | float:
        """Return the time in seconds of step coordinates (0 is the centre of the first step)."""
        return (steps + 0.5) * self.step_seconds

    def steps(self, seconds: np.ndarray | float) -> np.ndarray | float:
        """Return step coordinates of times in seconds."""
        return seconds / self.step_seconds - 0.5


def time_grid(protocol: Protocol, geometry: BackboneGeometry) -> TimeGrid:
    """Return the grid of a protocol's frame rate under a backbone's clips."""
    return TimeGrid(protocol.frames_per_second, geometry.frames_per_step, geometry.steps_per_clip)


@dataclasses.dataclass(frozen=True)
class VideoClips:
    """A video cut into clips at the protocol's rate: (S, 3, T, H, W) uint8, and which steps show it."""

    frames: Tensor
    valid_steps: int
    source: str | None = None
    """What the pixels follow from: a digest of the file, the instants, the size and the readers."""

    @property
    def count(self) -> int:
        return self.frames.shape[0]


def read_clips(dataset: Dataset, video: Video, protocol: Protocol, geometry: BackboneGeometry) -> VideoClips:
    """Return the clips of ``video``; the last one is filled up with its last frame.

    Raises InputError that names the file when it is missing or cannot be decoded.
    """
    grid = frame_times(video.duration, protocol.frames_per_second, geometry.clip_frames)
    path = video_path(dataset, video)
    pixels = read_frames(path, grid.times, protocol.image_size)
    frames = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    clips = frames.unflatten(0, (-1, geometry.clip_frames)).transpose(1, 2).contiguous()
    # A step counts if any of its frames does.
    decoded = f"{file_sha256(path)} {protocol.image_size} {readers_installed()} "
    source = decoded.encode() + grid.times.tobytes()
    valid_steps = -(-int(grid.valid.sum()) // geometry.frames_per_step)
    return VideoClips(clips, valid_steps, hashlib.sha256(source).hexdigest())


@dataclasses.dataclass(frozen=True)
class FrameStore:
    """The decoded clips of some videos, all in memory, by video id."""

    videos: dict[str, Video]
    clips: dict[str, VideoClips]
    grid: TimeGrid


def read_store(
    dataset: Dataset,
    subset: str,
    protocol: Protocol,
    geometry: BackboneGeometry,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FrameStore:
    """Decode all videos of a subset; raise InputError that names a file which cannot be read."""
    videos = {video.id: video for video in dataset.subset(subset)}
    clips = {}
    for number, video in enumerate(videos.values()):
        clips[video.id] = read_clips(dataset, video, protocol, geometry)
        progress(number + 1, len(videos))
    return FrameStore(videos, clips, time_grid(protocol, geometry))


@dataclasses.dataclass(frozen=True)
class Window:
    """``clips`` clips of a video from clip ``start`` on; past the video's end its last clip repeats."""

    video: str
    start: int
    clips: int

    def indices(self, available: int) -> np.ndarray:
        """Return the clip indices of the window in a video of ``available`` clips."""
        return np.minimum(np.arange(self.start, self.start + self.clips), available - 1)


def window_mask(window: Window, clips: VideoClips, grid: TimeGrid) -> Tensor:
    """Return (S*t,) bool: true where a step of the window shows the video."""
    first = window.start * grid.steps_per_clip
    return torch.arange(first, first + window.clips * grid.steps_per_clip) < clips.valid_steps


@dataclasses.dataclass(frozen=True)
class Targets:
    """Ground truth of one window: segments (n, 2) in steps of the window, labels (n,)."""

    segments: Tensor
    labels: Tensor


def window_targets(
    window: Window, video: Video, classes: Sequence[str], grid: TimeGrid, truncation: float
) -> Targets:
    """Return the instances of which at least ``truncation`` lies in the window, cut at its borders."""
    offset, count = window.start * grid.steps_per_clip, window.clips * grid.steps_per_clip
    bounds = np.array([[i.start, i.end] for i in video.instances], dtype=np.float64).reshape(-1, 2)
    steps = np.asarray(grid.steps(bounds)) - offset
    cut = steps.clip(-0.5, count - 0.5)
    lengths = steps[:, 1] - steps[:, 0]
    kept = (cut[:, 1] - cut[:, 0] >= truncation * lengths) & (cut[:, 1] > cut[:, 0])
    labels = np.array([classes.index(i.label) for i in video.instances], dtype=np.int64)
    return Targets(torch.from_numpy(cut[kept]).float(), torch.from_numpy(labels[kept]))


@dataclasses.dataclass(frozen=True)
class TrainingSampler:
    """Which windows a step trains on: a function of seed and step alone, equal for every strategy."""

    store: FrameStore
    protocol: Protocol
    classes: tuple[str, ...]
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.store.videos) // self.protocol.batch_size)

    def windows(self, step: int) -> list[Window]:
        """Return the batch of step ``step``. Every epoch shows every video once, in a new order."""
        epoch, position = divmod(step, self.steps_per_epoch)
        rng = np.random.default_rng([self.seed, epoch])
        names = sorted(self.store.videos)
        order = rng.permutation(len(names))
        draws = rng.random(len(names))
        size = self.protocol.batch_size
        chosen = np.resize(order, max(size, len(order)))[position * size : (position + 1) * size]
        return [self._crop(names[index], draws[index]) for index in chosen]

    def _crop(self, name: str, draw: float) -> Window:
        """Return a window whose start is drawn among those that hold an instance, if there is one."""
        span = self.protocol.window_clips
        starts = range(max(0, self.store.clips[name].count - span) + 1)
        windows = [Window(name, start, span) for start in (starts if self.protocol.temporal_crop else (0,))]
        holding = [window for window in windows if len(self.targets(window).labels)] or windows
        return holding[int(draw * len(holding))]

    def targets(self, window: Window) -> Targets:
        video = self.store.videos[window.video]
        return window_targets(window, video, self.classes, self.store.grid, self.protocol.truncation)
