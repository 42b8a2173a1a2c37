"""Running a backbone on windows: with gradient, or without it through a cache of what cannot change."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.clips import FrameStore, parts
from bench.models.backbone import Backbone, BackboneGeometry, Encoded
from bench.windows import Window, window_frames
from strategies.base import Fidelity

if TYPE_CHECKING:
    from bench.encoding_cache import DiskCache


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


def shrink(clips: Tensor, spatial: float, geometry: BackboneGeometry) -> Tensor:
    """Return clips (..., 3, T, H, W) at lower spatial fidelity, (..., 3, T, H', W').

    Bilinear with antialiasing, to the nearest size that the backbone divides.
    """
    if spatial == 1:
        return clips
    *leading, colours, frames, height, width = clips.shape
    multiple = geometry.size_multiple
    size = [max(multiple, round(s * spatial / multiple) * multiple) for s in (height, width)]
    images = clips.transpose(-4, -3).reshape(-1, colours, height, width).float()
    images = F.interpolate(images, size, mode="bilinear", antialias=True)
    return images.reshape(*leading, frames, colours, *size).transpose(-4, -3)


def reduce_clips(clips: Tensor, fidelity: Fidelity, geometry: BackboneGeometry) -> Tensor:
    """Return clips (B, S, 3, T, H, W) at lower fidelity, (B, S', 3, T, H', W')."""
    return shrink(keep_snippets(clips, fidelity.temporal, geometry), fidelity.spatial, geometry)


def stretch(features: Tensor, steps: int) -> Tensor:
    """Return features (B, D, steps): linear interpolation in time where a fidelity left fewer steps."""
    if features.shape[2] == steps:
        return features
    return F.interpolate(features, steps, mode="linear", align_corners=False)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[None]:
    """Return the context in which networks run.

    Weights are cast where they are used and the casts not kept: a step uses all but the head's own ones
    once, and kept casts are another half of the weights' bytes.
    """
    low = precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=low, cache_enabled=False)


@dataclasses.dataclass(frozen=True)
class ClipPasses:
    """How clips pass through a backbone a few at a time."""

    size: int
    """Clips that pass at once."""
    spatial: float = 1.0
    """Spatial fidelity, applied on the way."""
    precision: str = "float32"
    run_at_most: int | None = None
    """For forecasts: passes that are really run; the others would peak no higher and only take time."""

    def parts(self, clips: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield first indices and (n, 3, T, H, W) parts of the clips (N, 3, T, H, W) that are to be run."""
        for number, first in enumerate(range(0, len(clips), self.size)):
            if self.run_at_most is not None and number >= self.run_at_most:
                return
            yield first, clips[first : first + self.size]

    def encode(self, backbone: Backbone, clips: Tensor) -> Encoded:
        """Return the encodings of clips of bytes: moved, reduced, normalised and encoded, all at once."""
        device = next(backbone.parameters()).device
        with autocast(device, self.precision):
            reduced = shrink(clips.to(device), self.spatial, backbone.geometry)
            return backbone.encode(backbone.normalise(reduced))


def place(outputs: Encoded | None, encoded: Encoded, first: int, count: int) -> Encoded:
    """Return room for ``count`` encodings, made if ``outputs`` is None, with those from ``first`` filled in.

    Filled in place, because joining parts at the end would hold every encoding twice.
    """
    if outputs is None:
        outputs = tuple(part.new_empty(count, *part.shape[1:]) for part in encoded)
    for whole, part in zip(outputs, encoded, strict=True):
        whole[first : first + len(part)] = part[: count - first]
    return outputs


def encode_frozen(backbone: Backbone, clips: Tensor, passes: ClipPasses) -> Encoded:
    """Return the encodings of (N, 3, T, H, W) clips of bytes, a few at a time, without gradient.

    The last pass is filled up with its last clip, so that every pass has the same shape and a clip's
    encoding does not depend on how many others were asked for.
    """
    return _encode(backbone, passes.parts(clips), len(clips), passes)


def encode_video(backbone: Backbone, store: FrameStore, name: str, passes: ClipPasses) -> Encoded:
    """Return the encodings of all clips of a video, of which only a part is held as frames if they are many.

    The passes are those of ``encode_frozen``: every part but the last is a number of whole ones.
    """
    return _encode(backbone, _video_parts(store, name, passes), store.clips[name].count, passes)


def _video_parts(store: FrameStore, name: str, passes: ClipPasses) -> Iterator[tuple[int, Tensor]]:
    clips = store.clips[name]
    borders = list(parts(clips, passes.size))
    for number, (begin, end) in enumerate(borders):
        if len(borders) > 1:
            store.expect([(name, *each) for each in borders[number : number + 2]])
        for first, part in passes.parts(clips.part(begin, end)):
            yield begin + first, part


@torch.no_grad()
def _encode(
    backbone: Backbone, clips: Iterable[tuple[int, Tensor]], count: int, passes: ClipPasses
) -> Encoded:
    outputs: Encoded | None = None
    for first, part in clips:
        filled = torch.cat([part, part[-1:].expand(passes.size - len(part), *part.shape[1:])])
        encoded = passes.encode(backbone, filled)
        outputs = place(outputs, tuple(each[: len(part)] for each in encoded), first, count)
    assert outputs is not None
    return outputs


class EncodingCache:
    """Encodings of whole videos, kept in host memory, read from disk or computed when first asked for.

    Valid as long as nothing that ``backbone.upstream()`` holds is trained; the training loop makes a new
    one whenever that may have changed. ``disk`` is asked only if it serves the upstream as it is now.
    """

    def __init__(
        self,
        backbone: Backbone,
        store: FrameStore,
        passes: ClipPasses,
        *,
        keep: bool = True,
        disk: DiskCache | None = None,
    ) -> None:
        self.backbone = backbone
        self.store = store
        self.passes = passes
        self.keep = keep
        self.disk = disk.serving(backbone) if disk and keep else None
        self._videos: dict[str, Encoded] = {}

    def window(self, window: Window) -> Encoded:
        """Return the encodings of a window's clips, first axis S."""
        if not self.keep or window.view is not None:
            return encode_frozen(self.backbone, window_frames(self.store, window), self.passes)
        indices = torch.from_numpy(window.indices(self.store.clips[window.video].count))
        return tuple(part[indices] for part in self.video(window.video))

    def video(self, name: str) -> Encoded:
        """Return the encodings of all clips of a video."""
        if name in self._videos:
            return self._videos[name]
        encoded = self._found(name) or self._computed(name)
        if self.keep:
            self._videos[name] = encoded
        return encoded

    def drop(self, name: str) -> None:
        """Forget a video that is not asked for again."""
        self._videos.pop(name, None)

    def _found(self, name: str) -> Encoded | None:
        return self.disk.read(self.store.clips[name].source) if self.disk else None

    def _computed(self, name: str) -> Encoded:
        clips, started = self.store.clips[name], time.perf_counter()
        encoded = encode_video(self.backbone, self.store, name, self.passes)
        encoded = tuple(part.cpu() for part in encoded)
        if self.disk:
            share = clips.count / sum(each.count for each in self.store.clips.values())
            self.disk.write(clips.source, encoded, time.perf_counter() - started, share)
        return encoded

    def batch(self, windows: Sequence[Window], device: torch.device) -> Encoded:
        """Return the encodings of a batch of windows; the first two axes are (B, S)."""
        parts = zip(*(self.window(window) for window in windows), strict=True)
        return tuple(torch.stack(part).to(device) for part in parts)


def batch_clips(store: FrameStore, windows: Sequence[Window]) -> Tensor:
    """Return the uint8 clips of a batch of windows, (B, S, 3, T, H, W)."""
    return torch.stack([window_frames(store, window) for window in windows])


def reduced_mask(mask: Tensor, steps: int) -> Tensor:
    """Return (B, steps): the mask (B, T) of the snippets that a lower temporal fidelity keeps."""
    if mask.shape[1] == steps:
        return mask
    chosen = ((np.arange(steps) + 0.5) * mask.shape[1] / steps).astype(np.int64)
    return mask[:, torch.from_numpy(chosen).to(mask.device)]
