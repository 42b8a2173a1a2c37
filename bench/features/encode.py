"""Passes of clips through a backbone, with or without gradients."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.features.fidelity import downscale_clips
from bench.models.backbone import Backbone, Encoded

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integer type of each item size: NumPy has no bfloat16."""


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

    def encode(self, backbone: Backbone, clips: Tensor, window_clips: int = 1) -> Encoded:
        """Return the encodings of uint8 clips: moved to the device, downscaled, normalised and encoded.

        ``window_clips`` is as in ``bench.models.backbone.Backbone``.
        """
        device = backbone.device
        with autocast(device, self.precision):
            reduced = downscale_clips(clips.to(device), self.spatial, backbone.geometry)
            return backbone.encode(backbone.normalise(reduced), window_clips)


@dataclasses.dataclass(frozen=True)
class HostEncodings:
    """Encodings of n clips in host memory, outside of torch, so that they are not memory of a step."""

    arrays: tuple[NDArray[Any], ...]
    """For each part (n, ...), as integers of the same item size."""
    dtypes: tuple[torch.dtype, ...]

    @classmethod
    def of(cls, encoded: Encoded, count: int) -> HostEncodings:
        """Return a copy of the first ``count`` encodings."""
        arrays = (
            np.array(part.detach().cpu().view(INTEGERS[part.element_size()]).numpy()[:count], order="C")
            for part in encoded
        )
        return cls(tuple(arrays), tuple(part.dtype for part in encoded))

    @property
    def count(self) -> int:
        return len(self.arrays[0])

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    def to(self, device: torch.device) -> Encoded:
        """Return the encodings as tensors on ``device``."""
        return tuple(
            torch.from_numpy(array).view(dtype).to(device)
            for array, dtype in zip(self.arrays, self.dtypes, strict=True)
        )


def write_slice(outputs: Encoded | None, encoded: Encoded, first: int, count: int) -> Encoded:
    """Write encodings from index ``first`` on into ``outputs``; if None, allocate ``count`` encodings.

    Written in place, because concatenating parts at the end would hold every encoding twice.
    """
    if outputs is None:
        outputs = tuple(part.new_empty(count, *part.shape[1:]) for part in encoded)
    for whole, part in zip(outputs, encoded, strict=True):
        whole[first : first + len(part)] = part[: count - first]
    return outputs


@torch.no_grad()
def encode_frozen(backbone: Backbone, clips: Tensor, passes: ClipPasses, window_clips: int = 1) -> Encoded:
    """Return the encodings of (N, 3, T, H, W) uint8 clips, computed a few at a time, without gradient.

    The last pass is padded with its last clip, so that every pass has the same shape and a clip's encoding
    does not depend on the number of other clips. A backbone that mixes clips gets a window in each pass.
    """
    if backbone.mixes_clips:
        passes = dataclasses.replace(passes, size=window_clips)
    else:
        window_clips = 1
    outputs: Encoded | None = None
    for first, part in passes.parts(clips):
        filled = part  # a window is complete, and not copied
        if not backbone.mixes_clips:
            filled = torch.cat([part, part[-1:].expand(passes.size - len(part), *part.shape[1:])])
        encoded = passes.encode(backbone, filled, window_clips)
        outputs = write_slice(outputs, tuple(each[: len(part)] for each in encoded), first, len(clips))
    assert outputs is not None
    return outputs


@torch.no_grad()
def encode_to_host(backbone: Backbone, frames: NDArray[Any], passes: ClipPasses) -> Iterator[HostEncodings]:
    """Yield the host encodings of (N, 3, T, H, W) clips, one pass after the other, as ``encode_frozen``.

    The device holds one pass at a time, whatever N is.
    """
    for first in range(0, len(frames), passes.size):
        rows = np.minimum(np.arange(first, first + passes.size), len(frames) - 1)
        encoded = passes.encode(backbone, torch.from_numpy(frames[rows]))
        found = HostEncodings.of(encoded, min(passes.size, len(frames) - first))
        del encoded  # not held by the generator while it waits
        yield found
