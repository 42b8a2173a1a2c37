"""Augmentation of training windows: one random crop and flip for all frames of a window."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

AREA = (0.5, 1.0)
"""Area of a crop as a fraction of the frame.

The range 0.08 to 1 of image classification, which AdaTAD uses (182 pixels to 160), enlarges too much where
frames are as small as the network's input.
"""
ASPECT = (3 / 4, 4 / 3)
"""Width over height of a crop before it is resized to the frame; drawn on a logarithmic scale."""


@dataclasses.dataclass(frozen=True)
class CropFlip:
    """A crop, given by its borders as fractions of the frame, and whether it is flipped horizontally."""

    top: float
    left: float
    bottom: float
    right: float
    flip: bool

    def of(self, frames: Tensor) -> Tensor:
        """Return frames (S, 3, T, H, W) uint8 cropped, resized to their original size, and flipped.

        All frames are treated the same. Resizing is bilinear with antialiasing. The memory needed does not
        depend on the crop: each picture is resized as a view, and copied if it is not flipped.
        """
        height, width = frames.shape[-2:]
        pictures = frames.reshape(-1, 1, height, width)
        rows = slice(round(self.top * height), round(self.bottom * height))
        columns = slice(round(self.left * width), round(self.right * width))
        resized = F.interpolate(
            pictures[..., rows, columns],
            (height, width),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        del pictures
        return torch.flip(resized, (-1,) if self.flip else ()).reshape(frames.shape)


def random_crop_flips(rng: np.random.Generator, count: int) -> Sequence[CropFlip]:
    """Return ``count`` random views."""
    found = []
    for area, aspect, vertical, horizontal, flip in rng.random((count, 5)):
        share = AREA[0] + area * (AREA[1] - AREA[0])
        ratio = np.exp(np.log(ASPECT[0]) + aspect * (np.log(ASPECT[1]) - np.log(ASPECT[0])))
        # A side longer than the frame's is clipped to it, as image classification does after ten tries.
        height, width = min(1.0, float(np.sqrt(share / ratio))), min(1.0, float(np.sqrt(share * ratio)))
        top, left = float(vertical * (1 - height)), float(horizontal * (1 - width))
        found.append(CropFlip(top, left, top + height, left + width, bool(flip < 0.5)))
    return found
