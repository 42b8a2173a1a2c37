"""Videos as clips: where they lie in time, known without decoding, and their frames, read when asked for."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol as Interface

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.config.protocol import Protocol
from bench.io.reading import file_sha256
from bench.loading import FrameLoader
from bench.models.backbone import BackboneGeometry
from datasets.annotations.reader import Dataset, Video, video_path
from datasets.sampling import FrameGrid, frame_times, spread_times
from datasets.video.frames import read_clips, readers_installed

PART_BYTES = 256 * 2**20
"""Frames of a video that are held at once where all of it is wanted, at most: some 1700 of 224 pixels."""

DIGEST_VIDEOS = 256
"""Videos of a subset whose pictures are part of a record's digest, at most."""


@dataclasses.dataclass(frozen=True)
class TimeGrid:
    """How a video's feature steps lie in time. Step k shows the frames around ``seconds(k)``."""

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


def time_grid(frames_per_second: float, geometry: BackboneGeometry) -> TimeGrid:
    """Return the grid of frames read at a rate, under a backbone's clips."""
    return TimeGrid(frames_per_second, geometry.frames_per_step, geometry.steps_per_clip)


class Clips(Interface):
    """A video cut into clips of (3, T, H, W) bytes."""

    @property
    def count(self) -> int:
        """How many clips."""

    @property
    def valid_steps(self) -> int:
        """How many feature steps show the video; those after them are padding."""

    @property
    def grid(self) -> TimeGrid:
        """How the steps lie in time."""

    @property
    def source(self) -> str | None:
        """What the pixels follow from: a digest of the file, the instants, the size and the readers."""

    @property
    def clip_bytes(self) -> int:
        """Bytes of a clip."""

    def pick(self, indices: NDArray[np.int64]) -> Tensor:
        """Return new (n, 3, T, H, W) uint8 for ascending clip numbers without a gap; the last may repeat."""

    def part(self, first: int, last: int) -> Tensor:
        """Return the clips from ``first`` to before ``last``, not to be written to."""


@dataclasses.dataclass(frozen=True)
class VideoClips:
    """A video's clips in memory: (S, 3, T, H, W) uint8, and which steps show it."""

    frames: Tensor
    valid_steps: int
    grid: TimeGrid
    source: str | None = None

    @property
    def count(self) -> int:
        return self.frames.shape[0]

    @property
    def clip_bytes(self) -> int:
        return self.frames[0].numel()

    def pick(self, indices: NDArray[np.int64]) -> Tensor:
        return self.frames[torch.from_numpy(indices)]

    def part(self, first: int, last: int) -> Tensor:
        return self.frames if (first, last) == (0, self.count) else self.frames[first:last]


@dataclasses.dataclass(frozen=True, eq=False)
class FileClips:
    """A video's clips in its file, read on demand: the picture at each of ``times`` (S * T,) seconds."""

    path: Path
    times: NDArray[np.float64]
    clip_frames: int
    image_size: int
    valid_steps: int
    grid: TimeGrid
    loader: FrameLoader

    @property
    def count(self) -> int:
        return len(self.times) // self.clip_frames

    @property
    def clip_bytes(self) -> int:
        return 3 * self.clip_frames * self.image_size**2

    @functools.cached_property
    def source(self) -> str:
        decoded = f"{file_sha256(self.path)} {self.image_size} {readers_installed()} "
        return hashlib.sha256(decoded.encode() + self.times.tobytes()).hexdigest()

    def pick(self, indices: NDArray[np.int64]) -> Tensor:
        first, last = int(indices[0]), int(indices[-1]) + 1
        return self.part(first, last)[torch.from_numpy(indices - first)]

    def part(self, first: int, last: int) -> Tensor:
        # Made outside of torch's operations: like frames that lay in memory before, they are not the step's.
        return torch.from_numpy(self.loader.part(self, first, last))

    def decode(self, first: int, last: int) -> NDArray[np.uint8]:
        """Return the clips from ``first`` to before ``last``, (n, 3, T, H, W), read from the file now.

        Raises InputError that names the file when it cannot be decoded.
        """
        times = self.times[first * self.clip_frames : last * self.clip_frames]
        return read_clips(self.path, times, self.clip_frames, self.image_size)


def instants(video: Video, protocol: Protocol, clip_frames: int) -> tuple[FrameGrid, float]:
    """Return when a video is looked at, and at how many frames a second that is.

    With windows, at the protocol's rate; else the frames of one window are spread over the video.
    """
    if protocol.resampling == "fixed":
        frames = protocol.window_clips * clip_frames
        return spread_times(video.duration, frames), frames / video.duration
    rate = protocol.frames_per_second
    return frame_times(video.duration, rate, clip_frames), rate


def file_clips(
    dataset: Dataset, video: Video, protocol: Protocol, geometry: BackboneGeometry, loader: FrameLoader
) -> FileClips:
    """Return the clips of ``video``; the last one is filled up with its last frame. Decodes nothing.

    Raises InputError that names the file when it is missing.
    """
    looked, rate = instants(video, protocol, geometry.clip_frames)
    # A step counts if any of its frames does.
    valid_steps = -(-int(looked.valid.sum()) // geometry.frames_per_step)
    return FileClips(
        video_path(dataset, video),
        looked.times,
        geometry.clip_frames,
        protocol.image_size,
        valid_steps,
        time_grid(rate, geometry),
        loader,
    )


def parts(clips: Clips, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Yield the borders of parts of a video of at most PART_BYTES, each of a multiple of so many clips."""
    length = max(1, PART_BYTES // (clips.clip_bytes * multiple)) * multiple
    for first in range(0, clips.count, length):
        yield first, min(first + length, clips.count)


@dataclasses.dataclass(frozen=True)
class FrameStore:
    """The clips of some videos by video id."""

    videos: Mapping[str, Video]
    clips: Mapping[str, Clips]
    ahead: int = 0
    """Windows that are worth announcing before they are needed; none where all frames lie in memory."""

    def expect(self, wanted: list[tuple[str, int, int]]) -> None:
        """Announce parts (video, first, last) in the order of need; what was announced before is dropped."""
        found = [(self.clips[name], first, last) for name, first, last in wanted]
        files = [(clips, first, last) for clips, first, last in found if isinstance(clips, FileClips)]
        if files:
            files[0][0].loader.expect(files)


def pictures_sha256(
    store: FrameStore, progress: Callable[[int, int], None] = lambda done, total: None
) -> str:
    """Return the SHA-256 of a sample of a store's pictures, as decoded, resized and given to a backbone.

    Of every video, of some DIGEST_VIDEOS evenly spaced ones where there are more: the id, and the clips a
    sixth, a half and five sixths of the way through. It is the same whether frames lie in memory or are
    decoded now.
    """
    names = sorted(store.clips)
    names = names[:: -(-len(names) // DIGEST_VIDEOS)]
    sample = {name: sorted({store.clips[name].count * sixths // 6 for sixths in (1, 3, 5)}) for name in names}
    digest = hashlib.sha256()
    for done, name in enumerate(names):
        soon = names[done : done + 1 + store.ahead]
        store.expect([(other, number, number + 1) for other in soon for number in sample[other]])
        digest.update(name.encode())
        for number in sample[name]:
            digest.update(store.clips[name].part(number, number + 1).contiguous().numpy().data)
        progress(done + 1, len(names))
    return digest.hexdigest()


def open_store(
    dataset: Dataset,
    subset: str,
    protocol: Protocol,
    geometry: BackboneGeometry,
    loader: FrameLoader,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FrameStore:
    """Return the clips of a subset's videos, decoded right away if all of them fit the loader's cache.

    Raises InputError that names a file which is missing or, if decoded now, cannot be read.
    """
    videos = {video.id: video for video in dataset.subset(subset)}
    clips = {name: file_clips(dataset, video, protocol, geometry, loader) for name, video in videos.items()}
    if sum(each.count * each.clip_bytes for each in clips.values()) > loader.cache_bytes:
        return FrameStore(videos, clips, loader.workers)
    for number, each in enumerate(clips.values()):
        for first, last in parts(each):
            loader.part(each, first, last)
        progress(number + 1, len(videos))
    return FrameStore(videos, clips)
