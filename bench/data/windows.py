"""Windows of videos for training and testing: their clips, targets and masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from bench.config.protocol import Protocol
from bench.data.augmentation import CropFlip, random_crop_flips
from bench.data.clips import Clips
from bench.data.frame_store import FrameStore
from bench.data.time_grid import TimeGrid
from datasets.annotations.dataset import Video


@dataclasses.dataclass(frozen=True)
class Window:
    """``clips`` clips of a video from clip ``start`` on; after the video's end its last clip is repeated."""

    video: str
    start: int
    clips: int
    view: CropFlip | None = None
    """Augmentation of its frames; None leaves them unchanged."""
    shown: int | None = None
    """Number of its clips that show the video, where a part of the video is cropped; None: all."""

    def indices(self, available: int) -> np.ndarray:
        """Return the clip indices of the window in a video of ``available`` clips."""
        if self.shown is not None:
            available = min(available, self.start + self.shown)
        return np.minimum(np.arange(self.start, self.start + self.clips), available - 1)


def window_frames(store: FrameStore, window: Window) -> Tensor:
    """Return the frames of a window, (S, 3, T, H, W) uint8."""
    clips = store.clips[window.video]
    frames = clips.pick(window.indices(clips.count))
    return frames if window.view is None else window.view.of(frames)


def window_mask(window: Window, clips: Clips) -> Tensor:
    """Return (S*t,) bool: true where a step of the window shows the video."""
    steps_per_clip = clips.grid.steps_per_clip
    first = window.start * steps_per_clip
    end = clips.valid_steps if window.shown is None else first + window.shown * steps_per_clip
    return torch.arange(first, first + window.clips * steps_per_clip) < min(end, clips.valid_steps)


@dataclasses.dataclass(frozen=True)
class Targets:
    """Ground truth of one window: segments (n, 2) in steps of the window, labels (n,)."""

    segments: Tensor
    labels: Tensor


def cut_segments(
    starts: np.ndarray, clips: int, video: Video, grid: TimeGrid, truncation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return every instance's segment in windows that start at the clips ``starts`` (m,), and if it is kept.

    Segments (m, n, 2) are in steps of the window and clipped to it; kept (m, n) is true where at least the
    fraction ``truncation`` is inside. A window reaches from the beginning of its first step to the end of its
    last. Differs: in ActionFormer's ``truncate_feats`` it ends one step later.
    """
    offsets, count = starts[:, None, None] * grid.steps_per_clip, clips * grid.steps_per_clip
    bounds = np.array([[i.start, i.end] for i in video.instances], dtype=np.float64).reshape(-1, 2)
    steps = np.asarray(grid.steps(bounds)) - offsets
    cut = steps.clip(-grid.first, count - 1 + grid.first)
    lengths = steps[..., 1] - steps[..., 0]
    kept = (cut[..., 1] - cut[..., 0] >= truncation * lengths) & (cut[..., 1] > cut[..., 0])
    return cut, kept


def window_targets(
    window: Window, video: Video, classes: Sequence[str], grid: TimeGrid, truncation: float
) -> Targets:
    """Return the instances of which at least the fraction ``truncation`` is in the window, clipped to it."""
    shown = window.clips if window.shown is None else window.shown
    (cut,), (kept,) = cut_segments(np.array([window.start]), shown, video, grid, truncation)
    labels = np.array([classes.index(i.label) for i in video.instances], dtype=np.int64)
    return Targets(torch.from_numpy(cut[kept]).float(), torch.from_numpy(labels[kept]))


@dataclasses.dataclass(frozen=True)
class TrainingSampler:
    """Samples the windows of each step; they depend only on seed and step, equally for every strategy."""

    store: FrameStore
    protocol: Protocol
    classes: tuple[str, ...]
    seed: int
    steps: int | None = None
    """Steps of the run, beyond which nothing is prefetched; None: the protocol's."""

    @property
    def steps_per_epoch(self) -> int:
        return self.protocol.steps_per_epoch(len(self.store.videos))

    def windows(self, step: int) -> list[Window]:
        """Return the batch of step ``step``. Every epoch contains every video once, in a new order."""
        epoch, position = divmod(step, self.steps_per_epoch)
        rng = np.random.default_rng([self.seed, epoch])
        names = sorted(self.store.videos)
        order = rng.permutation(len(names))
        draws = rng.random(len(names))
        size, span = self.protocol.batch_size, self.protocol.window_clips
        chosen = np.resize(order, max(size, len(order)))[position * size : (position + 1) * size]
        views, parts = self._views(epoch, len(names)), self._parts(epoch, names)
        return [
            Window(names[i], self._start(names[i], draws[i], parts[i]), span, views[i], parts[i])
            for i in chosen
        ]

    def _parts(self, epoch: int, names: Sequence[str]) -> Sequence[int | None]:
        """Return how many clips of each video a window shows; None for all that it covers.

        As in ActionFormer's ``truncate_feats``: of a video no longer than a window, a number of clips between
        two fractions of its length, all equally likely.
        """
        if not self.protocol.crop_ratio:
            return [None] * len(names)
        shortest, longest = self.protocol.crop_ratio
        # A separate generator: orders and starts are those of a run without cropping.
        draws = np.random.default_rng([self.seed, epoch, 2]).random(len(names))
        parts: list[int | None] = []
        for name, draw in zip(names, draws, strict=True):
            count = self.store.clips[name].count
            least = max(1, round(shortest * count))
            part = least + int(draw * (max(least, round(longest * count)) - least + 1))
            parts.append(part if count <= self.protocol.window_clips and part < count else None)
        return parts

    def _views(self, epoch: int, videos: int) -> Sequence[CropFlip | None]:
        if self.protocol.augmentation == "none":
            return [None] * videos
        # A separate generator: orders and starts are those of a run without augmentation.
        return random_crop_flips(np.random.default_rng([self.seed, epoch, 1]), videos)

    def _start(self, name: str, draw: float, part: int | None = None) -> int:
        """Return a window's first clip, drawn from those whose windows contain an instance, if any does."""
        clips, protocol = self.store.clips[name], self.protocol
        shown = protocol.window_clips if part is None else part
        last = max(0, clips.count - shown) if protocol.temporal_crop else 0
        starts = np.arange(last + 1)
        video = self.store.videos[name]
        _, kept = cut_segments(starts, shown, video, clips.grid, protocol.truncation)
        holding = starts[kept.any(axis=1)] if kept.any() else starts
        return int(holding[int(draw * len(holding))])

    def targets(self, window: Window) -> Targets:
        video, grid = self.store.videos[window.video], self.store.clips[window.video].grid
        return window_targets(window, video, self.classes, grid, self.protocol.truncation)

    def ahead(
        self, step: int, part: Callable[[Sequence[Window]], Sequence[Window]] = lambda batch: batch
    ) -> list[tuple[str, int, int]]:
        """Return the parts of videos that are needed for step ``step`` and some steps after it.

        ``part`` returns those windows of a batch that this process trains on.
        """
        wanted = []
        for window in self.windows_ahead(step, part):
            indices = window.indices(self.store.clips[window.video].count)
            wanted.append((window.video, int(indices[0]), int(indices[-1]) + 1))
        return wanted

    def windows_ahead(
        self, step: int, part: Callable[[Sequence[Window]], Sequence[Window]] = lambda batch: batch
    ) -> list[Window]:
        """Return the windows whose frames are prefetched in a step: its own and those of later steps."""
        if not self.store.ahead:
            return []
        more = -(-self.store.ahead // self.protocol.batch_size)
        steps = range(step, min(step + 1 + more, self.steps or self.protocol.steps))
        return [window for number in steps for window in part(self.windows(number))]
