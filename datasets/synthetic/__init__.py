"""The synthetic data set: generated videos in which boundaries are hard and some classes need the context."""

from datasets.synthetic.config import SOURCE, SyntheticConfig
from datasets.synthetic.generate import generate, generate_source, write_video

__all__ = ["SOURCE", "SyntheticConfig", "generate", "generate_source", "write_video"]
