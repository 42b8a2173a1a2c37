"""Embedded data sets that are generated in a second."""

from datasets.miniature import MiniatureConfig
from datasets.synthetic import SyntheticConfig

SMALL = MiniatureConfig(
    training_videos=2,
    tuning_videos=1,
    testing_videos=1,
    video_seconds=(6.0, 9.0),
    short_video_seconds=(5.0, 6.0),
    instance_seconds=(1.0, 3.0),
    source_training_clips=12,
    source_validation_clips=12,
)
SMALL_SYNTHETIC = SyntheticConfig(
    training_videos=2, tuning_videos=1, testing_videos=1, video_seconds=(14.0, 18.0)
)
