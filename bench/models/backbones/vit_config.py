"""The configurations of the video transformers."""

from __future__ import annotations

import dataclasses
from typing import Literal

from bench.io.errors import InputError
from bench.models.position_encoding import Grid

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """The configuration of a video transformer; sizes are in pixels, frames and channels."""

    width: int
    depth: int
    heads: int
    image_size: int = 224
    patch_size: int = 16
    tubelet_size: int = 2
    clip_frames: int = 16
    mlp_ratio: float = 4.0
    stem: Literal["linear", "difference-conv"] = "linear"
    positions: Literal["flat", "grid"] = "flat"
    pretrained_size: int | None = None
    """Image size and clip length that the weights were trained at; None: those of this configuration."""
    pretrained_frames: int | None = None
    interpolated: bool = True
    """Whether flat positions of other sizes are interpolated from those of pre-training, or recomputed."""
    position_scale: float = 1.0
    drop_path: float = 0.0
    """Probability of dropping a residual branch in the last block; it grows linearly from 0 in the first."""
    checkpointing: bool = False
    """Recompute each block's activations in the backward pass instead of keeping them."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def check(self) -> None:
        """Raise InputError if sizes do not divide."""
        if self.width % self.heads:
            raise InputError(f"width {self.width}: allowed are multiples of heads ({self.heads})")
        if self.stem != "linear" and self.image_size % self.patch_size:
            raise InputError(
                f"image_size {self.image_size}: allowed are multiples of the patch ({self.patch_size})"
            )
        if self.image_size < self.patch_size:
            raise InputError(f"image_size {self.image_size}: allowed is {self.patch_size} (a patch) or more")
        if self.clip_frames % self.tubelet_size:
            raise InputError(
                f"clip_frames {self.clip_frames}: allowed are multiples of the tubelet ({self.tubelet_size})"
            )

    def grid(self, image_size: int, frames: int) -> Grid:
        """Return the token grid of a clip, without pixels beyond the last whole patch."""
        side = image_size // self.patch_size
        return (frames // self.tubelet_size, side, side)

    @property
    def pretrained_grid(self) -> Grid:
        return self.grid(self.pretrained_size or self.image_size, self.pretrained_frames or self.clip_frames)


PUBLISHED = ViTConfig(width=384, depth=12, heads=6, drop_path=0.1, pretrained_size=224, pretrained_frames=16)
CONFIGS: dict[str, ViTConfig] = {
    "vit-t": ViTConfig(
        width=64,
        depth=4,
        heads=4,
        image_size=32,
        patch_size=8,
        stem="difference-conv",
        positions="grid",
        position_scale=0.5,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    ),
    "vit-s": PUBLISHED,
    "vit-b": dataclasses.replace(PUBLISHED, width=768, heads=12),
    "vit-l": dataclasses.replace(PUBLISHED, width=1024, depth=24, heads=16),
    "vit-h": dataclasses.replace(PUBLISHED, width=1280, depth=32, heads=16),
    "vit-g": dataclasses.replace(PUBLISHED, width=1408, depth=40, heads=16, patch_size=14, mlp_ratio=48 / 11),
}
