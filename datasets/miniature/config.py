"""The configuration of the miniature, and the location of the generated files."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Self

SUBSETS = ("training", "tuning", "testing")
SOURCE_SUBSETS = ("training", "validation")
PICTURES_SHA256 = {
    "target": "9f88aa153829a561d3f88becb237c60c2d546dc0f132cd97cae0b15bce2809bd",
    "source": "be9b4407f0ed33a64cb1c07492ec09c7f056deed820c6129f6ff58f6487e209f",
}
"""Digests of the decoded pictures of the default configuration, see `generate`."""


class GeneratorConfig:
    """What configurations of generators share; a subclass is a dataclass of plain values and ranges."""

    size: int
    frames_per_second: int
    training_videos: int
    tuning_videos: int
    testing_videos: int

    def check_pictures_and_ranges(self) -> None:
        """Raise ValueError for sizes and rates that cannot be encoded, and for empty ranges."""
        if self.size < 16 or self.size % 2:
            raise ValueError(f"size is {self.size}, an even number of at least 16 pixels is needed")
        if self.frames_per_second < 1:
            raise ValueError(f"frames_per_second is {self.frames_per_second}, at least 1 is needed")
        for name, value in self.fields().items():
            if isinstance(value, tuple) and not 0 < value[0] <= value[1]:
                raise ValueError(f"{name} is ({value[0]}, {value[1]}), 0 < low <= high is needed")

    def fields(self) -> dict[str, Any]:
        """Return all fields by name."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # subclasses are dataclasses

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Return the configuration from its `asdict` after a JSON round trip, which turns tuples to lists."""
        return cls(**{name: tuple(each) if isinstance(each, list) else each for name, each in fields.items()})

    @property
    def digest(self) -> str:
        """Return twelve hexadecimal digits that depend on every field."""
        return hashlib.sha256(json.dumps(self.fields(), sort_keys=True).encode()).hexdigest()[:12]

    def count(self, subset: str) -> int:
        """Return the number of videos of a subset of the target domain."""
        counts = (self.training_videos, self.tuning_videos, self.testing_videos)
        return dict(zip(SUBSETS, counts, strict=True))[subset]


@dataclass(frozen=True)
class MiniatureConfig(GeneratorConfig):
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
        self.check_pictures_and_ranges()
        if self.instance_seconds[0] + 1 > min(self.video_seconds[0], self.short_video_seconds[0]):
            raise ValueError("the shortest video must be a second longer than the shortest instance")

    def source_count(self, subset: str) -> int:
        """Return the number of clips of a subset of the source domain."""
        counts = (self.source_training_clips, self.source_validation_clips)
        return dict(zip(SOURCE_SUBSETS, counts, strict=True))[subset]
