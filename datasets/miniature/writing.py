"""One video of the miniature, from its name to its file."""

from pathlib import Path

from datasets.miniature.config import MiniatureConfig
from datasets.miniature.rendering import encode, pictures_sha256, render
from datasets.miniature.scenes import source_scene, target_scene

SCENES = {"target": target_scene, "source": source_scene}


def file_name(subset: str, index: int) -> str:
    """The name of a generated file within its folder."""
    return f"{subset}_{index:04d}.mp4"


def write_video(config: MiniatureConfig, domain: str, folder: Path, subset: str, index: int) -> str:
    """Render and encode one video of the domain `target` or `source`; the SHA-256 of its decoded pictures."""
    scene = SCENES[domain](config, subset, index)
    frames = render(scene, config.size)
    path = folder / file_name(subset, index)
    encode(path, frames, config.size, config.frames_per_second, config.quantizer)
    return pictures_sha256(path)
