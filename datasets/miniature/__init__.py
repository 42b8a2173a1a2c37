"""The embedded miniature: generated videos, so that the benchmark runs without a download."""

from bench.io.cache_dir import default_cache_dir
from datasets.miniature.config import MiniatureConfig
from datasets.miniature.generate import generate, generate_source
from datasets.miniature.making import SourceClip, read_pictures_sha256, read_source

__all__ = [
    "MiniatureConfig",
    "SourceClip",
    "default_cache_dir",
    "generate",
    "generate_source",
    "read_pictures_sha256",
    "read_source",
]
