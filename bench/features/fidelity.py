"""Clips and features at lower temporal and spatial fidelity (LoFi, section 3)."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bench.models.backbone import BackboneGeometry


@dataclasses.dataclass(frozen=True)
class TemporalFidelity:
    """The snippets that a temporal fidelity keeps of a window, and the times of their features.

    A snippet is what is encoded together (``BackboneGeometry.snippet_frames``). Of L snippets, every r-th is
    kept for a fraction 1/r, and the middle one of each r (LoFi, section 3.2: L / r_t snippets).
    """

    fraction: float
    clips: int
    """Clips of a window at full fidelity."""
    geometry: BackboneGeometry
    snippet: Literal["clip", "step"] = "clip"
    """``bench.config.protocol.Protocol.snippet``; "step" is the rule of earlier versions."""

    @property
    def all_steps(self) -> int:
        """Steps of the backbone in a window at full fidelity."""
        return self.clips * self.geometry.steps_per_clip

    @property
    def steps(self) -> NDArray[np.int64]:
        """The backbone's steps (K,) that are kept, ascending."""
        together = self.geometry.steps_per_snippet if self.snippet == "clip" else 1
        total = self.all_steps // together
        # The earlier rule fills whole clips with the frames of single steps.
        filled = self.geometry.steps_per_clip if self.snippet == "step" else 1
        kept = max(1, round(total / filled * self.fraction)) * filled
        chosen = ((np.arange(kept) + 0.5) * total / kept).astype(np.int64)
        return (chosen[:, None] * together + np.arange(together)).ravel()

    def keep(self, clips: Tensor) -> Tensor:
        """Return the kept snippets (B, S', 3, T', H, W) of clips (B, S, 3, T, H, W); all clips for 1.

        Each is a clip of its own; under the earlier rule they are put together to clips of T frames.
        """
        if self.fraction == 1:
            return clips
        geometry = self.geometry
        if self.snippet == "step":
            steps: Tensor = clips.transpose(1, 2).unflatten(3, (-1, geometry.frames_per_step)).flatten(2, 3)
            joined: Tensor = steps[:, :, self.steps].flatten(2, 3).unflatten(2, (-1, geometry.clip_frames))
            return joined.transpose(1, 2)
        snippets: Tensor = clips.unflatten(3, (-1, geometry.snippet_frames)).transpose(2, 3).flatten(1, 2)
        return snippets[:, self.steps[:: geometry.steps_per_snippet] // geometry.steps_per_snippet]

    def mask(self, mask: Tensor) -> Tensor:
        """Return (B, K): the mask (B, T) of the head's steps at the backbone's steps that are kept."""
        if self.fraction == 1:
            return reduced_mask(mask, self.all_steps)
        return reduced_mask(mask, self.all_steps)[:, torch.from_numpy(self.steps).to(mask.device)]

    def to_head_steps(self, features: Tensor, steps: int) -> Tensor:
        """Return features (B, D, steps) of the head from those of the kept steps, (B, D, K).

        Kept steps stay at their times; in between, features are interpolated linearly, and before the first
        and after the last they are constant. Where the head has fewer steps than the backbone, those of a
        kept snippet are averaged first, or features would be late or early where snippets overlap.
        """
        if self.fraction == 1:
            return to_head_steps(features, steps)
        if self.snippet == "step":  # as if kept steps were the centres of equal parts: half a step off
            return F.interpolate(features, steps, mode="linear", align_corners=False)
        merged = max(1, self.all_steps // steps)
        if self.geometry.steps_per_snippet % merged:
            merged = 1
        kept = self.steps[::merged] // merged
        features = to_head_steps(features, len(kept))
        places = np.interp(np.arange(self.all_steps // merged), kept, np.arange(len(kept)))
        weights = np.maximum(0, 1 - np.abs(places - np.arange(len(kept))[:, None]))
        with torch.autocast(features.device.type, enabled=False):  # bfloat16 would round features
            every = features @ torch.from_numpy(weights).to(features.device, features.dtype)
        return to_head_steps(every, steps)


def downscale_clips(clips: Tensor, spatial: float, geometry: BackboneGeometry) -> Tensor:
    """Return clips (..., 3, T, H, W) at lower spatial fidelity, (..., 3, T, H', W').

    Bilinear with antialiasing, to the nearest size that the backbone allows.
    """
    if spatial == 1:
        return clips
    *leading, colours, frames, height, width = clips.shape
    multiple = geometry.size_multiple
    size = [max(multiple, round(s * spatial / multiple) * multiple) for s in (height, width)]
    images = clips.transpose(-4, -3).reshape(-1, colours, height, width).float()
    images = F.interpolate(images, size, mode="bilinear", antialias=True)
    return images.reshape(*leading, frames, colours, *size).transpose(-4, -3)


def to_head_steps(features: Tensor, steps: int) -> Tensor:
    """Return features (B, D, steps) of the head from those of a window at full fidelity, (B, D, T).

    Fewer steps are means of neighbouring ones (T is a multiple of them), more are interpolated linearly.
    """
    if steps < features.shape[2]:
        means: Tensor = features.unflatten(2, (steps, -1)).mean(dim=3)
        return means
    if steps == features.shape[2]:
        return features
    return F.interpolate(features, steps, mode="linear", align_corners=False)


def reduced_mask(mask: Tensor, steps: int) -> Tensor:
    """Return (B, steps): the mask (B, T) of a window at another number of steps."""
    if mask.shape[1] == steps:
        return mask
    chosen = ((np.arange(steps) + 0.5) * mask.shape[1] / steps).astype(np.int64)
    return mask[:, torch.from_numpy(chosen).to(mask.device)]
