"""Videos as clips: their times, known without decoding, and their frames, read on demand."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol as Interface

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.config.protocol import Protocol
from bench.data.frame_loader import FrameLoader
from bench.data.time_grid import TimeGrid, time_grid
from bench.models.backbone import BackboneGeometry
from datasets.annotations.dataset import Dataset, Video
from datasets.annotations.reader import video_path
from datasets.sampling import FrameGrid, clip_times, frame_times, spread_clip_times, spread_times

PART_BYTES = 256 * 2**20
"""Most bytes of a video's frames held at once when the whole video is processed: some 1700 of 224 pixels."""


class Clips(Interface):
    """A video as a sequence of clips, (3, T, H, W) uint8."""

    @property
    def count(self) -> int:
        """Number of clips."""

    @property
    def valid_steps(self) -> int:
        """Number of feature steps that show the video; later ones are padding."""

    @property
    def grid(self) -> TimeGrid:
        """The times of the steps."""

    @property
    def source(self) -> str | None:
        """A digest of all that determines the pixels: the file, the times, the size and the readers."""

    @property
    def clip_bytes(self) -> int:
        """Bytes of a clip."""

    def pick(self, indices: NDArray[np.int64]) -> Tensor:
        """Return a new (n, 3, T, H, W) uint8 tensor for consecutive clip numbers; the last may repeat."""

    def part(self, first: int, last: int) -> NDArray[np.uint8]:
        """Return the clips ``first`` to ``last - 1``, (n, 3, T, H, W); they must not be written to.

        An array, because a tensor of it would count as memory of the step that creates it.
        """


@dataclasses.dataclass(frozen=True)
class VideoClips:
    """A video's clips in memory: (S, 3, T, H, W) uint8, and the number of steps that show it."""

    frames: Tensor
    valid_steps: int
    grid: TimeGrid
    source: str | None = None

    @property
    def count(self) -> int:
        return self.frames.shape[0]

    @property
    def clip_bytes(self) -> int:
        return math.prod(self.frames.shape[1:])

    def pick(self, indices: NDArray[np.int64]) -> Tensor:
        return self.frames[torch.from_numpy(indices)]

    def part(self, first: int, last: int) -> NDArray[np.uint8]:
        # Not ``numpy()``, which is an operation whose result would count as the whole video.
        frames: NDArray[np.uint8] = np.asarray(np.from_dlpack(self.frames), np.uint8)
        return frames[first:last]


@dataclasses.dataclass(frozen=True, eq=False)
class FileClips:
    """A video's clips, read from its file on demand: the picture at each of ``times`` (S * T,) seconds."""

    path: Path
    times: NDArray[np.float64]
    clip_frames: int
    image_size: int
    valid_steps: int
    grid: TimeGrid
    loader: FrameLoader
    rate: float | None = None
    """Frames per second of a folder of images; files have their own times."""

    @property
    def count(self) -> int:
        return len(self.times) // self.clip_frames

    @property
    def clip_bytes(self) -> int:
        return 3 * self.clip_frames * self.image_size**2

    @functools.cached_property
    def source(self) -> str:
        from datasets.video.frames import reader_of, source_sha256  # it imports PyAV

        decoded = f"{source_sha256(self.path)} {self.image_size} {reader_of(self.path, self.rate)} "
        return hashlib.sha256(decoded.encode() + self.times.tobytes()).hexdigest()

    def pick(self, indices: NDArray[np.int64]) -> Tensor:
        first, last = int(indices[0]), int(indices[-1]) + 1
        return torch.from_numpy(self.part(first, last)[indices - first])

    def part(self, first: int, last: int) -> NDArray[np.uint8]:
        return self.loader.part(self, first, last)

    def decode(self, first: int, last: int) -> NDArray[np.uint8]:
        """Decode and return the clips ``first`` to ``last - 1``, (n, 3, T, H, W).

        Raises InputError that names the file if it cannot be decoded.
        """
        from datasets.video.frames import read_clips  # it imports PyAV

        times = self.times[first * self.clip_frames : last * self.clip_frames]
        return read_clips(self.path, times, self.clip_frames, self.image_size, rate=self.rate)


def instants(video: Video, protocol: Protocol, clip_frames: int) -> tuple[FrameGrid, float]:
    """Return the times at which a video is sampled, and the frame rate.

    With sliding windows, the rate is the protocol's; else the frames of one window are spread over the video.
    """
    clips, rate = protocol.window_clips, protocol.frames_per_second
    if protocol.resampling == "fixed":
        spread = clips * clip_frames / video.duration
        if protocol.clip_seconds is not None:
            return spread_clip_times(video.duration, clips, clip_frames, protocol.clip_seconds), spread
        return spread_times(video.duration, clips * clip_frames), spread
    if protocol.clip_stride is not None:
        return clip_times(video.duration, rate, clip_frames, protocol.clip_stride), rate
    return frame_times(video.duration, rate, clip_frames), rate


def file_clips(
    dataset: Dataset, video: Video, protocol: Protocol, geometry: BackboneGeometry, loader: FrameLoader
) -> FileClips:
    """Return the clips of ``video``; the last one is padded with the last frame. Decodes nothing.

    Raises InputError that names the file if it is missing.
    """
    looked, rate = instants(video, protocol, geometry.clip_frames)
    grid = time_grid(rate, geometry, protocol.steps_per_clip, protocol.clip_stride)
    # A step is valid if any of its frames is.
    of_steps = looked.valid.reshape(len(looked.times) // geometry.clip_frames * grid.steps_per_clip, -1)
    valid_steps = int(of_steps.any(axis=1).sum())
    return FileClips(
        video_path(dataset, video),
        looked.times,
        geometry.clip_frames,
        protocol.image_size,
        valid_steps,
        grid,
        loader,
        video.frames_per_second,
    )


def parts(clips: Clips) -> Iterator[tuple[int, int]]:
    """Yield the bounds of parts of a video of at most PART_BYTES."""
    length = max(1, PART_BYTES // clips.clip_bytes)
    for first in range(0, clips.count, length):
        yield first, min(first + length, clips.count)
