"""Passes of clips through a backbone, with or without gradients."""

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
    """Return the autocast context in which networks run.

    Casts of weights are not cached: a step uses all weights but the head's once, and cached casts would take
    another half of the weights' bytes.
    """
    low = precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=low, cache_enabled=False)


@dataclasses.dataclass(frozen=True)
class ClipPasses:
    """Settings of passes of a few clips at a time through a backbone."""

    size: int
    """Clips per pass."""
    spatial: float = 1.0
    """Spatial fidelity, applied in each pass."""
    precision: str = "float32"
    run_at_most: int | None = None
    """For forecasts: number of passes that are run; further ones would have the same peak."""

    def parts(self, clips: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield the first index and the part (n, 3, T, H, W) of clips (N, 3, T, H, W) for each pass."""
        for number, first in enumerate(range(0, len(clips), self.size)):
            if self.run_at_most is not None and number >= self.run_at_most:
                return
            yield first, clips[first : first + self.size]

    def encode(self, backbone: Backbone, clips: Tensor) -> Encoded:
        """Return the encodings of uint8 clips: moved to the device, downscaled, normalised and encoded."""
        device = next(backbone.parameters()).device
        with autocast(device, self.precision):
            reduced = downscale_clips(clips.to(device), self.spatial, backbone.geometry)
            return backbone.encode(backbone.normalise(reduced))


def write_slice(outputs: Encoded | None, encoded: Encoded, first: int, count: int) -> Encoded:
    """Write encodings from index ``first`` on into ``outputs``; if None, allocate ``count`` encodings.

    Written in place, because concatenating parts at the end would hold every encoding twice.
    """
    if outputs is None:
        outputs = tuple(part.new_empty(count, *part.shape[1:]) for part in encoded)
    for whole, part in zip(outputs, encoded, strict=True):
        whole[first : first + len(part)] = part[: count - first]
    return outputs


def encode_frozen(backbone: Backbone, clips: Tensor, passes: ClipPasses) -> Encoded:
    """Return the encodings of (N, 3, T, H, W) uint8 clips, computed a few at a time, without gradient.

    The last pass is padded with its last clip, so that every pass has the same shape and a clip's encoding
    does not depend on the number of other clips.
    """
    return _encode(backbone, passes.parts(clips), len(clips), passes)


def encode_video(backbone: Backbone, store: FrameStore, name: str, passes: ClipPasses) -> Encoded:
    """Return the encodings of all clips of a video; frames of a long video are loaded in parts.

    The passes are those of ``encode_frozen``: every part but the last consists of complete passes.
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
