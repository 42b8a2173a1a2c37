"""The configuration of the synthetic data set; every field is in its digest."""

from dataclasses import dataclass

from datasets.miniature.config import SUBSETS, GeneratorConfig, MiniatureConfig

__all__ = ["PICTURES_SHA256", "SOURCE", "SUBSETS", "SyntheticConfig"]
PICTURES_SHA256 = {
    "target": "4c810218557e60d5431bde33115fd8b9007112dc8781d0c09410f165c8cade89",
    "source": "abe4967b9a55040e041bf0042d0ed58b0a221a1fcf87aa3d3fd7344b9ffb1561",
}
"""Digests of the decoded pictures of the default configurations, see `datasets.miniature.making`."""

SOURCE = MiniatureConfig(size=32, frames_per_second=8)
"""The source clips, for pre-training, are those of the miniature's generator at this size and rate."""


@dataclass(frozen=True)
class SyntheticConfig(GeneratorConfig):
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
        self.check_pictures_and_ranges()
        for name, value in self.fields().items():
            if name.endswith("_share") and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}, 0 to 1 is needed")
        if self.video_seconds[0] < self.instance_seconds[1] + 4:
            raise ValueError("the shortest video must be 4 seconds longer than the longest instance")
