"""The times of a video's feature steps."""

from __future__ import annotations

import dataclasses

import numpy as np

from bench.config.protocol import Protocol
from bench.io.errors import InputError
from bench.models.backbone import BackboneGeometry


@dataclasses.dataclass(frozen=True)
class TimeGrid:
    """The times of a video's steps, as the head sees them. Step k shows the frames around ``seconds(k)``."""

    frames_per_second: float
    frames_per_step: float
    """Frames from one step to the next."""
    steps_per_clip: int
    first: float = 0.5
    """Time of the first step, in steps: half a step, or more where clips overlap."""

    @property
    def step_seconds(self) -> float:
        return self.frames_per_step / self.frames_per_second

    def seconds(self, steps: np.ndarray | float) -> np.ndarray | float:
        """Return the time in seconds of step coordinates (0 is the centre of the first step)."""
        return (steps + self.first) * self.step_seconds

    def steps(self, seconds: np.ndarray | float) -> np.ndarray | float:
        """Return step coordinates of times in seconds."""
        return seconds / self.step_seconds - self.first


def time_grid(
    frames_per_second: float,
    geometry: BackboneGeometry,
    steps_per_clip: int | None = None,
    clip_stride: int | None = None,
) -> TimeGrid:
    """Return the grid of the head's steps for frames that are read at a given rate.

    ``steps_per_clip`` replaces the backbone's number of steps. With a ``clip_stride``, clips start so many
    frames apart and give one step each, at the middle of the clip: step k is at (k * stride + frames / 2) /
    rate seconds, as in ActionFormer's features. Raises InputError for a number that clips do not allow.
    """
    if clip_stride is not None:
        return TimeGrid(frames_per_second, clip_stride, 1, geometry.clip_frames / 2 / clip_stride)
    frames, own = geometry.clip_frames, geometry.steps_per_clip
    steps = own if steps_per_clip is None else steps_per_clip
    if frames % steps or (steps < own and own % steps):
        allowed = [n for n in range(1, frames + 1) if not frames % n and (n >= own or not own % n)]
        raise InputError(
            f"protocol: field 'steps_per_clip' is {steps}, allowed for clips of {frames} frames are "
            f"{', '.join(map(str, allowed))}"
        )
    return TimeGrid(frames_per_second, geometry.clip_frames / steps, steps)


def head_steps_per_clip(protocol: Protocol, geometry: BackboneGeometry) -> int:
    """Return the number of steps of the head for each clip."""
    return time_grid(1.0, geometry, protocol.steps_per_clip, protocol.clip_stride).steps_per_clip
