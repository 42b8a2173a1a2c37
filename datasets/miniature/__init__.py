"""The embedded miniature: generated videos, so that the benchmark runs without a download."""

from datasets.miniature.config import MiniatureConfig, default_cache_dir
from datasets.miniature.generate import (
    SourceClip,
    generate,
    generate_source,
    read_pictures_sha256,
    read_source,
)

__all__ = [
    "MiniatureConfig",
    "SourceClip",
    "default_cache_dir",
    "generate",
    "generate_source",
    "read_pictures_sha256",
    "read_source",
]
