"""Sampling on a time grid: the times at which a video is read, and its windows of clips.

Times are in seconds, not frame numbers, so that a video of any frame rate is sampled at the protocol's rate.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROUNDING_FRAMES = 1e-6
"""A remainder of less than this fraction of a frame is a rounding error, not a frame."""


@dataclass(frozen=True, eq=False)
class FrameGrid:
    """The times at which a video is read: `times` (N,) in seconds, `valid` (N,) False where padded."""

    times: NDArray[np.float64]
    valid: NDArray[np.bool_]


def frame_times(duration: float, frames_per_second: float, count_multiple: int = 1) -> FrameGrid:
    """Return the grid over a whole video: time i is the middle of frame i, (i + 0.5) / rate seconds.

    Times are within the duration (a video of one frame is read at its middle). The grid is padded to a
    multiple of `count_multiple`, the frames of a clip, by repeating the last time.
    """
    count = _frame_count(duration, frames_per_second)
    _require_positive(count_multiple=count_multiple)
    return _grid_of(
        np.arange(math.ceil(count / count_multiple) * count_multiple), count, duration, frames_per_second
    )


def clip_times(duration: float, frames_per_second: float, clip_frames: int, clip_stride: int) -> FrameGrid:
    """Return the grid of clips that start `clip_stride` frames apart, as (clips * clip_frames,) times.

    Clips overlap if the stride is less than their frames. Together they reach the end of the video; frames
    after it are padded by repeating the last time.
    """
    count = _frame_count(duration, frames_per_second)
    _require_positive(clip_frames=clip_frames, clip_stride=clip_stride)
    clips = 1 + max(0, math.ceil((count - clip_frames) / clip_stride))
    numbers = np.arange(clips)[:, None] * clip_stride + np.arange(clip_frames)
    return _grid_of(numbers.ravel(), count, duration, frames_per_second)


def _frame_count(duration: float, frames_per_second: float) -> int:
    """Return the number of frames of a video at a rate."""
    if not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"duration is {duration}, more than 0 s is needed")
    if not (math.isfinite(frames_per_second) and frames_per_second > 0):
        raise ValueError(f"frames_per_second is {frames_per_second}, more than 0 is needed")
    return max(1, math.ceil(duration * frames_per_second - 0.5 - ROUNDING_FRAMES))


def _grid_of(numbers: NDArray[np.int64], count: int, duration: float, frames_per_second: float) -> FrameGrid:
    """Return the times of frame numbers, of which those from `count` on are padding."""
    positions = np.minimum(numbers, count - 1)
    # A single frame may be longer than the video: its middle is then past the end, the video's is not.
    times = (positions + 0.5) / frames_per_second if count > 1 else np.full(len(numbers), duration / 2)
    return FrameGrid(times=times, valid=numbers < count)


def spread_times(duration: float, frames: int) -> FrameGrid:
    """Return a grid of `frames` times over a whole video of any duration: the middles of equal parts.

    Time i is (i + 0.5) * duration / frames seconds, and none is padded.
    """
    if not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"duration is {duration}, more than 0 s is needed")
    _require_positive(frames=frames)
    return FrameGrid(times=(np.arange(frames) + 0.5) * duration / frames, valid=np.ones(frames, dtype=bool))


def spread_clip_times(duration: float, clips: int, clip_frames: int, clip_seconds: float) -> FrameGrid:
    """Return the grid of clips spread over a whole video, as (clips * clip_frames,) times.

    Clip k lies around the middle of the k-th of equal parts; its frames are the middles of equal parts of
    `clip_seconds`. Times outside the video are moved to its borders.
    """
    middles = spread_times(duration, clips).times[:, None]
    _require_positive(clip_frames=clip_frames)
    within = ((np.arange(clip_frames) + 0.5) / clip_frames - 0.5) * clip_seconds
    times = (middles + within).clip(0, duration).ravel()
    return FrameGrid(times=times, valid=np.ones(len(times), dtype=bool))


def windows(total_clips: int, window_clips: int, stride_clips: int) -> list[int]:
    """Return the first clip of each window, ascending; together the windows cover every clip.

    Windows start one stride apart, and the last is moved back to end with the video, so that all are full. A
    video shorter than a window has one window, from clip 0, that the caller pads. The stride must not exceed
    the window, or clips would be missed.
    """
    _require_positive(total_clips=total_clips, window_clips=window_clips, stride_clips=stride_clips)
    if stride_clips > window_clips:
        raise ValueError(f"stride_clips is {stride_clips}, at most window_clips ({window_clips}) is allowed")
    last = max(0, total_clips - window_clips)
    return [*range(0, last, stride_clips), last]


def _require_positive(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, at least 1 is needed")
