"""The configuration of the synthetic data set; every field is in its digest."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from datasets.miniature import MiniatureConfig

SUBSETS = ("training", "tuning", "testing")
PICTURES_SHA256 = {
    "target": "4c810218557e60d5431bde33115fd8b9007112dc8781d0c09410f165c8cade89",
    "source": "abe4967b9a55040e041bf0042d0ed58b0a221a1fcf87aa3d3fd7344b9ffb1561",
}
"""Digests of the decoded pictures of the default configurations, see `datasets.miniature.making`."""

SOURCE = MiniatureConfig(size=32, frames_per_second=8)
"""The source clips, for pre-training, are those of the miniature's generator at this size and rate."""


@dataclass(frozen=True)
class SyntheticConfig:
    """Configuration of the generator: counts, sizes (pixels), ranges (seconds unless noted), shares (0 to 1).

    `version` must be increased with any change of the generator that changes a picture or an annotation.
    """

    version: str = "1"
    seed: int = 0
    size: int = 32
    frames_per_second: int = 8
    quantizer: int = 22
    training_videos: int = 128
    tuning_videos: int = 60
    testing_videos: int = 120
    video_seconds: tuple[float, float] = (30.0, 60.0)
    instance_seconds: tuple[float, float] = (1.2, 4.5)
    margin_seconds: tuple[float, float] = (0.1, 1.6)
    """Time that the motion begins before an instance and ends after it; the marker tells its bounds."""
    decoy_share: float = 0.28
    """Share of motions whose bounds the marker does not tell: they are no instances."""
    touching_share: float = 0.3
    """Share of motions that begin where the one before ends, by the other actor."""
    gap_seconds: tuple[float, float] = (0.5, 3.0)
    """Between the other motions."""
    ramp_seconds: tuple[float, float] = (0.2, 0.6)
    """Time in which a motion fades in and out."""
    tick_seconds: float = 0.5
    """Duration of the marker's motion at a bound, around it."""
    cue_seconds: float = 1.25
    cue_gap: tuple[float, float] = (8.0, 18.0)
    """From the end of a cue to the start of an instance that depends on it."""
    cue_share: float = 0.45
    """Share of the motions in that range that depend on it."""
    camera_scale: float = 0.5
    noise: float = 1.5

    def __post_init__(self) -> None:
        if self.size < 16 or self.size % 2:
            raise ValueError(f"size is {self.size}, an even number of at least 16 pixels is needed")
        if self.frames_per_second < 1:
            raise ValueError(f"frames_per_second is {self.frames_per_second}, at least 1 is needed")
        for name, value in asdict(self).items():
            if isinstance(value, tuple) and not 0 < value[0] <= value[1]:
                raise ValueError(f"{name} is ({value[0]}, {value[1]}), 0 < low <= high is needed")
            if name.endswith("_share") and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}, 0 to 1 is needed")
        if self.video_seconds[0] < self.instance_seconds[1] + 4:
            raise ValueError("the shortest video must be 4 seconds longer than the longest instance")

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "SyntheticConfig":
        """Return the configuration from its `asdict` after a JSON round trip, which turns tuples to lists."""
        restored: dict[str, Any] = {
            key: tuple(each) if isinstance(each, list) else each for key, each in fields.items()
        }
        return cls(**restored)

    @property
    def digest(self) -> str:
        """Return twelve hexadecimal digits that depend on every field."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def count(self, subset: str) -> int:
        """Return the number of videos of a subset."""
        counts = (self.training_videos, self.tuning_videos, self.testing_videos)
        return dict(zip(SUBSETS, counts, strict=True))[subset]
