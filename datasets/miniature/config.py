"""The configuration of the miniature, and the location of the generated files."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

SUBSETS = ("training", "tuning", "testing")
SOURCE_SUBSETS = ("training", "validation")
PICTURES_SHA256 = {
    "target": "9f88aa153829a561d3f88becb237c60c2d546dc0f132cd97cae0b15bce2809bd",
    "source": "be9b4407f0ed33a64cb1c07492ec09c7f056deed820c6129f6ff58f6487e209f",
}
"""Digests of the decoded pictures of the default configuration, see `generate`."""


@dataclass(frozen=True)
class MiniatureConfig:
    """Configuration of the generator: counts, sizes (pixels), ranges (seconds unless noted) and difficulty.

    The four scales multiply the difficulties of the target domain; 0 removes a difficulty. `version` must be
    increased with any change of the generator that changes a picture or an annotation.
    """

    version: str = "2"
    seed: int = 0
    size: int = 64
    frames_per_second: int = 10
    quantizer: int = 22  # files of 33 MB, mean squared error 7.6; version 1 had 34 MB and 7.2
    training_videos: int = 180
    tuning_videos: int = 20
    testing_videos: int = 40
    video_seconds: tuple[float, float] = (20.0, 60.0)
    short_video_seconds: tuple[float, float] = (12.0, 20.0)
    short_share: float = 0.1
    instance_seconds: tuple[float, float] = (1.0, 8.0)
    gap_seconds: tuple[float, float] = (1.0, 5.0)
    sprites: tuple[int, int] = (2, 3)
    drift_scale: float = 1.0
    camera_scale: float = 1.0
    noise_scale: float = 1.0
    distractor_scale: float = 1.0
    source_training_clips: int = 2640
    source_validation_clips: int = 360
    source_frames: tuple[int, int] = (20, 24)
    source_speed: tuple[float, float] = (0.9, 1.5)
    source_amount: float = 1.3

    def __post_init__(self) -> None:
        if self.size < 16 or self.size % 2:
            raise ValueError(f"size is {self.size}, an even number of at least 16 pixels is needed")
        if self.frames_per_second < 1:
            raise ValueError(f"frames_per_second is {self.frames_per_second}, at least 1 is needed")
        for name, (low, high) in self._ranges().items():
            if not 0 < low <= high:
                raise ValueError(f"{name} is ({low}, {high}), 0 < low <= high is needed")
        if self.instance_seconds[0] + 1 > min(self.video_seconds[0], self.short_video_seconds[0]):
            raise ValueError("the shortest video must be a second longer than the shortest instance")

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "MiniatureConfig":
        """Return the configuration from its `asdict` after a JSON round trip, which turns tuples to lists."""
        restored: dict[str, Any] = {}
        for name, value in fields.items():
            restored[name] = tuple(value) if isinstance(value, list) else value
        return cls(**restored)

    @property
    def digest(self) -> str:
        """Return twelve hexadecimal digits that depend on every field."""
        fields = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(fields.encode()).hexdigest()[:12]

    def count(self, subset: str) -> int:
        """Return the number of videos of a subset of the target domain."""
        counts = (self.training_videos, self.tuning_videos, self.testing_videos)
        return dict(zip(SUBSETS, counts, strict=True))[subset]

    def source_count(self, subset: str) -> int:
        """Return the number of clips of a subset of the source domain."""
        counts = (self.source_training_clips, self.source_validation_clips)
        return dict(zip(SOURCE_SUBSETS, counts, strict=True))[subset]

    def _ranges(self) -> dict[str, tuple[float, float]]:
        return {name: value for name, value in asdict(self).items() if isinstance(value, tuple)}
