"""Cache of frozen encodings of whole videos in host memory."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.data.frame_store import FrameStore
from bench.data.windows import Window, window_frames
from bench.features.disk_cache import DiskCache
from bench.features.encode import ClipPasses, encode_frozen, encode_video
from bench.models.backbone import Backbone, Encoded


class EncodingCache:
    """Encodings of whole videos in host memory, read from disk or computed on first use.

    Valid as long as no parameter of ``backbone.upstream()`` is trained; the training loop creates a new
    cache whenever one may have changed. ``disk`` is used only if it is valid for the current upstream.
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
        self.disk = disk.if_unchanged(backbone) if disk and keep else None
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
        """Remove a video that is not needed again."""
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
