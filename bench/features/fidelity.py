"""Clips and features at lower temporal and spatial fidelity (LoFi, section 3)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.models.backbone import BackboneGeometry


def keep_snippets(clips: Tensor, temporal: float, geometry: BackboneGeometry) -> Tensor:
    """Return clips (B, S, 3, T, H, W) at lower temporal fidelity, (B, S', 3, T, H, W).

    Whole snippets (the frames behind one feature step) are kept, evenly spaced, so that motion inside a
    snippet keeps its speed, and S' = round(S * temporal) clips are filled with them (LoFi, section 3.2:
    L / r_t snippets).
    """
    if temporal == 1:
        return clips
    windows, count, colours, frames, height, width = clips.shape
    kept_clips = max(1, round(count * temporal))
    total, kept = count * geometry.steps_per_clip, kept_clips * geometry.steps_per_clip
    chosen = ((torch.arange(kept, device=clips.device) + 0.5) * total / kept).long()
    snippets = clips.transpose(1, 2).reshape(windows, colours, total, -1, height, width)[:, :, chosen]
    return snippets.reshape(windows, colours, kept_clips, frames, height, width).transpose(1, 2)


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


def interpolate_steps(features: Tensor, steps: int) -> Tensor:
    """Return features (B, D, steps), linearly interpolated in time if a fidelity left fewer steps."""
    if features.shape[2] == steps:
        return features
    return F.interpolate(features, steps, mode="linear", align_corners=False)


def to_head_steps(features: Tensor, steps: int) -> Tensor:
    """Return features (B, D, steps) of the head from those of a window at full fidelity, (B, D, T).

    Fewer steps are means of neighbouring ones (T is a multiple of them), more are interpolated linearly.
    """
    if steps < features.shape[2]:
        means: Tensor = features.unflatten(2, (steps, -1)).mean(dim=3)
        return means
    return interpolate_steps(features, steps)


def reduced_mask(mask: Tensor, steps: int) -> Tensor:
    """Return (B, steps): the mask (B, T) of the snippets that a lower temporal fidelity keeps."""
    if mask.shape[1] == steps:
        return mask
    chosen = ((np.arange(steps) + 0.5) * mask.shape[1] / steps).astype(np.int64)
    return mask[:, torch.from_numpy(chosen).to(mask.device)]
