"""Running a backbone on windows: with gradient, or without it through a cache of what cannot change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.models.backbone import Backbone, BackboneGeometry, Encoded
from bench.windows import FrameStore, Window
from strategies.base import FULL, Fidelity


def reduce_clips(clips: Tensor, fidelity: Fidelity, geometry: BackboneGeometry) -> Tensor:
    """Return clips (B, S, 3, T, H, W) at lower fidelity, (B, S', 3, T, H', W').

    Temporal: whole snippets (the frames behind one feature step) are kept, evenly spaced, so that motion
    inside a snippet keeps its speed, and S' = round(S * temporal) clips are filled with them (LoFi,
    section 3.2: L / r_t snippets). Spatial: bilinear with antialiasing, to the nearest size that the
    backbone divides.
    """
    if fidelity == FULL:
        return clips
    windows, count, colours, frames, height, width = clips.shape
    if fidelity.temporal < 1:
        kept_clips = max(1, round(count * fidelity.temporal))
        total, kept = count * geometry.steps_per_clip, kept_clips * geometry.steps_per_clip
        chosen = ((torch.arange(kept, device=clips.device) + 0.5) * total / kept).long()
        snippets = clips.transpose(1, 2).reshape(windows, colours, total, -1, height, width)[:, :, chosen]
        clips = snippets.reshape(windows, colours, kept_clips, frames, height, width).transpose(1, 2)
    if fidelity.spatial < 1:
        multiple = geometry.size_multiple
        size = [max(multiple, round(s * fidelity.spatial / multiple) * multiple) for s in (height, width)]
        images = clips.transpose(2, 3).flatten(0, 2).float()
        images = F.interpolate(images, size, mode="bilinear", antialias=True)
        clips = images.reshape(windows, -1, frames, colours, *size).transpose(2, 3)
    return clips


def stretch(features: Tensor, steps: int) -> Tensor:
    """Return features (B, D, steps): linear interpolation in time where a fidelity left fewer steps."""
    if features.shape[2] == steps:
        return features
    return F.interpolate(features, steps, mode="linear", align_corners=False)


@torch.no_grad()
def encode_frozen(backbone: Backbone, clips: Tensor, chunk: int) -> Encoded:
    """Return the encodings of (N, 3, T, H, W) clips, ``chunk`` at a time, without gradient.

    The last chunk is filled up with its last clip, so that every call has the same shape and a clip's
    encoding does not depend on how many others were asked for.
    """
    device = next(backbone.parameters()).device
    parts = []
    for first in range(0, len(clips), chunk):
        wanted = clips[first : first + chunk]
        filled = torch.cat([wanted, wanted[-1:].expand(chunk - len(wanted), *wanted.shape[1:])])
        encoded = backbone.encode(backbone.normalise(filled.to(device)))
        parts.append(tuple(part[: len(wanted)] for part in encoded))
    return tuple(torch.cat(group) for group in zip(*parts, strict=True))


class EncodingCache:
    """Encodings of whole videos, kept in host memory, computed when first asked for.

    Valid as long as nothing that ``backbone.upstream()`` holds is trained; the training loop makes a new
    one whenever that may have changed.
    """

    def __init__(self, backbone: Backbone, store: FrameStore, chunk: int, *, keep: bool = True) -> None:
        self.backbone = backbone
        self.store = store
        self.chunk = chunk
        self.keep = keep
        self._videos: dict[str, Encoded] = {}

    def window(self, window: Window) -> Encoded:
        """Return the encodings of a window's clips, first axis S."""
        clips = self.store.clips[window.video]
        indices = torch.from_numpy(window.indices(clips.count))
        if not self.keep:
            return encode_frozen(self.backbone, clips.frames[indices], self.chunk)
        return tuple(part[indices] for part in self.video(window.video))

    def video(self, name: str) -> Encoded:
        """Return the encodings of all clips of a video."""
        if name in self._videos:
            return self._videos[name]
        encoded = encode_frozen(self.backbone, self.store.clips[name].frames, self.chunk)
        encoded = tuple(part.cpu() for part in encoded)
        if self.keep:
            self._videos[name] = encoded
        return encoded

    def batch(self, windows: Sequence[Window], device: torch.device) -> Encoded:
        """Return the encodings of a batch of windows; the first two axes are (B, S)."""
        parts = zip(*(self.window(window) for window in windows), strict=True)
        return tuple(torch.stack(part).to(device) for part in parts)


def batch_clips(store: FrameStore, windows: Sequence[Window]) -> Tensor:
    """Return the uint8 clips of a batch of windows, (B, S, 3, T, H, W)."""
    gathered = [
        store.clips[w.video].frames[torch.from_numpy(w.indices(store.clips[w.video].count))] for w in windows
    ]
    return torch.stack(gathered)


def reduced_mask(mask: Tensor, steps: int) -> Tensor:
    """Return (B, steps): the mask (B, T) of the snippets that a lower temporal fidelity keeps."""
    if mask.shape[1] == steps:
        return mask
    chosen = ((np.arange(steps) + 0.5) * mask.shape[1] / steps).astype(np.int64)
    return mask[:, torch.from_numpy(chosen).to(mask.device)]
