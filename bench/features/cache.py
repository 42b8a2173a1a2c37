"""Cache of frozen encodings in bounded host memory, and beyond it on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data import clips as data_clips
from bench.data.frame_loader import default_cache_bytes
from bench.data.frame_store import FrameStore
from bench.data.windows import Window, window_frames
from bench.features.disk_cache import DiskCache, PassKey
from bench.features.encode import ClipPasses, HostEncodings, encode_frozen, encode_to_host
from bench.features.fidelity import reduced_mask, to_head_steps
from bench.models.backbone import Backbone, Encoded


@dataclasses.dataclass(frozen=True)
class EncodingStorage:
    """Where encodings are kept, for all caches of a run."""

    disk: DiskCache | None = None
    """Disk cache of encodings of the upstream as it was loaded, shared with other runs."""
    memory_bytes: int | None = None
    """Host memory for encodings; None for a quarter of what is available when a cache is created."""


MEMORY_ONLY = EncodingStorage()
"""No disk, and a quarter of the available memory."""


Key = tuple[str, int]
"""A pass of clips: the video and the number of the pass."""


class EncodingCache:
    """Encodings of clips, computed on first use, a pass of clips at a time, and kept in host memory.

    The device holds the encodings of one pass and of one batch, so its memory does not depend on the length
    of a video. Beyond ``storage.memory_bytes`` the least recently used passes are dropped; they are then read
    from disk, or computed again. Valid as long as no parameter of ``backbone.upstream()`` is trained; the
    training loop creates a new cache whenever one may have changed. The disk is used only if it is valid for
    the current upstream.
    """

    def __init__(
        self,
        backbone: Backbone,
        store: FrameStore,
        passes: ClipPasses,
        *,
        keep: bool = True,
        storage: EncodingStorage = MEMORY_ONLY,
    ) -> None:
        self.backbone = backbone
        self.store = store
        self.passes = passes
        # An encoding that depends on other clips of the window is valid for that window alone.
        self.keep = keep and not backbone.mixes_clips
        self.disk = storage.disk.if_unchanged(backbone) if storage.disk and self.keep else None
        budget = storage.memory_bytes
        self.memory_bytes = default_cache_bytes() if budget is None else budget
        self._kept: OrderedDict[Key, HostEncodings] = OrderedDict()
        self._kept_bytes = 0
        self.computed = 0
        """Number of passes that were computed."""
        self.read = 0
        """Number of passes that were read from disk."""
        self._reading = True
        self._computed_again: set[Key] = set()
        self._stored: set[Key] = set()
        self._to_store = sum(clips.count for clips in store.clips.values())
        self._upcoming: list[tuple[str, int, int]] = []

    def batch(self, windows: Sequence[Window], device: torch.device) -> Encoded:
        """Return the encodings of a batch of windows on ``device``; the first two axes are (B, S)."""
        if not self.keep or any(window.view is not None for window in windows):
            frames = (window_frames(self.store, window) for window in windows)
            encoded = (encode_frozen(self.backbone, each, self.passes, len(each)) for each in frames)
            parts = zip(*encoded, strict=True)
            return tuple(torch.stack(part).to(device) for part in parts)
        return self._gathered(windows).to(device)

    def features(self, window: Window, mask: Tensor) -> Tensor:
        """Return the features (1, D, T) of a window for the head, on the device of its mask (1, T)."""
        steps = window.clips * self.backbone.geometry.steps_per_clip
        fused = self.backbone.fuse(self.batch([window], mask.device), reduced_mask(mask, steps))
        return to_head_steps(fused, mask.shape[1])

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Compute inside the block what is in memory or on disk, once: its memory is that of a first use."""
        self._reading = False
        try:
            yield
        finally:
            self._reading = True
            self._computed_again.clear()

    def load(self, windows: Sequence[Window]) -> None:
        """Bring the encodings of windows into host memory, as far as they fit."""
        for _ in self._passes_of(self._uses(windows)):
            pass

    def expect(self, windows: Sequence[Window]) -> None:
        """Prefetch the frames of those passes of later windows that will be computed."""
        missing = [key for key in self._uses(windows) if key not in self._kept and not self._is_stored(key)]
        self._upcoming = list(self._runs(missing))
        self.store.expect(self._upcoming)

    def time_passes(self, most: int) -> tuple[int, int, float, float]:
        """Compute the first passes again; return how many there are, were computed, and their times.

        At most ``most`` passes, of one video. The times are wall and processor seconds without decoding, on
        an idle cache: nothing is read from it or kept.
        """
        size = self.passes.size
        total = sum(-(-clips.count // size) for clips in self.store.clips.values())
        name = min(self.store.clips)
        frames = self.store.clips[name].part(0, min(most * size, self.store.clips[name].count))
        started = time.perf_counter(), time.process_time()
        measured = sum(1 for _ in encode_to_host(self.backbone, frames, self.passes))
        return total, measured, time.perf_counter() - started[0], time.process_time() - started[1]

    def drop(self, name: str) -> None:
        """Remove a video that is not needed again."""
        for key in [key for key in self._kept if key[0] == name]:
            self._kept_bytes -= self._kept.pop(key).nbytes

    def clear(self) -> None:
        """Free the host memory."""
        self._kept.clear()
        self._kept_bytes = 0

    def _gathered(self, windows: Sequence[Window]) -> HostEncodings:
        """Return the encodings of windows, (B, S, ...), copied from those of passes."""
        uses = self._uses(windows)
        whole: HostEncodings | None = None
        for key, encoded in self._passes_of(uses):
            if whole is None:
                shape = (len(windows), windows[0].clips)
                empty = (np.empty((*shape, *array.shape[1:]), array.dtype) for array in encoded.arrays)
                whole = HostEncodings(tuple(empty), encoded.dtypes)
            for row, steps, clips in uses[key]:
                for target, source in zip(whole.arrays, encoded.arrays, strict=True):
                    target[row, steps] = source[clips]
        assert whole is not None
        return whole

    def _numbers(self, window: Window) -> NDArray[np.int64]:
        return window.indices(self.store.clips[window.video].count)

    def _uses(
        self, windows: Sequence[Window]
    ) -> dict[Key, list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]]:
        """Return for each pass where it is used: row, steps of the row, clips of the pass."""
        size = self.passes.size
        uses: dict[Key, list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]] = {}
        for row, window in enumerate(windows):
            numbers = self._numbers(window)
            passes = numbers // size
            for steps in np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(passes)) + 1):
                key = (window.video, int(passes[steps[0]]))
                uses.setdefault(key, []).append((row, steps, numbers[steps] % size))
        return uses

    def _passes_of(self, needed: Iterable[Key]) -> Iterator[tuple[Key, HostEncodings]]:
        """Yield the encodings of passes, those that are to be computed last."""
        missing = []
        for key in needed:
            if self._may_read(key) and (found := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                yield key, found
            elif (found := self._read(key)) is not None:
                self.read += 1
                self._keep(key, found)
                yield key, found
            else:
                missing.append(key)
        yield from self._computed(missing)

    def _may_read(self, key: Key) -> bool:
        return self._reading or key in self._computed_again

    def _is_stored(self, key: Key) -> bool:
        return self.disk is not None and (key in self._stored or self.disk.has(self._disk_key(key)))

    def _read(self, key: Key) -> HostEncodings | None:
        if self.disk is None or not self._may_read(key):
            return None
        found = self.disk.read(self._disk_key(key))
        if found is not None:
            self._note_stored(key, found)
        return found

    def _store(self, key: Key, encoded: HostEncodings, seconds: float) -> None:
        """Write to disk what was not found there; in a ``computing`` block it was not looked for."""
        if self.disk is None or (not self._reading and self._is_stored(key)):
            return
        if self.disk.write(self._disk_key(key), encoded, seconds, self._to_store):
            self._note_stored(key, encoded)

    def _note_stored(self, key: Key, encoded: HostEncodings) -> None:
        if key not in self._stored:
            self._stored.add(key)
            self._to_store -= encoded.count

    def _computed(self, missing: Sequence[Key]) -> Iterator[tuple[Key, HostEncodings]]:
        runs = list(self._runs(missing))
        size = self.passes.size
        for index, (name, first, last) in enumerate(runs):
            self.store.expect([*runs[index : index + 1 + max(1, self.store.ahead)], *self._upcoming])
            started = time.perf_counter()
            frames = self.store.clips[name].part(first, last)
            self._upcoming = [run for run in self._upcoming if run != (name, first, last)]
            loading = (time.perf_counter() - started) * size / (last - first)
            encodings = encode_to_host(self.backbone, frames, self.passes)
            for number in range(first // size, -(-last // size)):
                started = time.perf_counter()
                key, encoded = (name, number), next(encodings)
                self.computed += 1
                if not self._reading:
                    self._computed_again.add(key)
                seconds = time.perf_counter() - started + loading
                self._keep(key, encoded)
                self._store(key, encoded, seconds)
                yield key, encoded

    def _runs(self, missing: Sequence[Key]) -> Iterator[tuple[str, int, int]]:
        """Yield (video, first clip, last clip) of consecutive passes whose frames are read at once."""
        size = self.passes.size
        ordered = sorted(missing)
        for name, passes in itertools.groupby(ordered, lambda key: key[0]):
            clips = self.store.clips[name]
            most = max(1, data_clips.PART_BYTES // (clips.clip_bytes * size))
            run: list[int] = []
            for _, number in passes:
                if run and (number != run[-1] + 1 or len(run) == most):
                    yield name, run[0] * size, min((run[-1] + 1) * size, clips.count)
                    run = []
                run.append(number)
            yield name, run[0] * size, min((run[-1] + 1) * size, clips.count)

    def _disk_key(self, key: Key) -> PassKey:
        clips = self.store.clips[key[0]]
        return PassKey(clips.source, clips.count, key[1])

    def _keep(self, key: Key, encoded: HostEncodings) -> None:
        if encoded.nbytes > self.memory_bytes or key in self._kept:
            return
        self._kept[key] = encoded
        self._kept_bytes += encoded.nbytes
        while self._kept_bytes > self.memory_bytes:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes


def batch_clips(store: FrameStore, windows: Sequence[Window]) -> Tensor:
    """Return the uint8 clips of a batch of windows, (B, S, 3, T, H, W)."""
    return torch.stack([window_frames(store, window) for window in windows])
