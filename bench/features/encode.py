"""Passes of clips through a backbone, with gradient or without."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from bench.data.clips import parts
from bench.data.frame_store import FrameStore
from bench.features.fidelity import downscale_clips
from bench.models.backbone import Backbone, Encoded


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
            reduced = downscale_clips(clips.to(device), self.spatial, backbone.geometry)
            return backbone.encode(backbone.normalise(reduced))


def write_slice(outputs: Encoded | None, encoded: Encoded, first: int, count: int) -> Encoded:
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
        outputs = write_slice(outputs, tuple(each[: len(part)] for each in encoded), first, count)
    assert outputs is not None
    return outputs
