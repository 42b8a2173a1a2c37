"""The times of a video's feature steps."""

from __future__ import annotations

import dataclasses

import numpy as np

from bench.models.backbone import BackboneGeometry


@dataclasses.dataclass(frozen=True)
class TimeGrid:
    """The times of a video's feature steps. Step k shows the frames around ``seconds(k)``."""

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
    """Return the grid of a backbone's steps for frames that are read at a given rate."""
    return TimeGrid(frames_per_second, geometry.frames_per_step, geometry.steps_per_clip)
