"""What a training window is made to look like: one random crop and flip for all of its frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

AREA = (0.5, 1.0)
"""Share of the frame that a crop has. Image classification's 0.08 to 1, which AdaTAD takes (182 pixels to
160), enlarges more than frames bear that are as large as what the network sees."""
ASPECT = (3 / 4, 4 / 3)
"""Width over height of a crop before it is stretched to the frame; drawn on a logarithmic scale."""


@dataclasses.dataclass(frozen=True)
class CropFlip:
    """A crop, by its borders as shares of the frame, and whether it is flipped left to right."""

    top: float
    left: float
    bottom: float
    right: float
    flip: bool

    def of(self, frames: Tensor) -> Tensor:
        """Return frames (S, 3, T, H, W) uint8 cropped, resized to what they were, and flipped; all alike.

        Bilinear with antialiasing. Takes the same memory whatever the crop: each picture is resized as a
        view, and what is not flipped is copied.
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
    """Return as many random views."""
    found = []
    for area, aspect, vertical, horizontal, flip in rng.random((count, 5)):
        share = AREA[0] + area * (AREA[1] - AREA[0])
        ratio = np.exp(np.log(ASPECT[0]) + aspect * (np.log(ASPECT[1]) - np.log(ASPECT[0])))
        # A side longer than the frame's is cut to it, as image classification does after ten tries.
        height, width = min(1.0, float(np.sqrt(share / ratio))), min(1.0, float(np.sqrt(share * ratio)))
        top, left = float(vertical * (1 - height)), float(horizontal * (1 - width))
        found.append(CropFlip(top, left, top + height, left + width, bool(flip < 0.5)))
    return found
