"""Decoded clips ahead of their need: decoding processes side by side, and a cache bounded in bytes."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.memory.device import available_memory
from datasets.video.decord_reader import stop_workers

MAX_WORKERS = 8


class ClipSource(Protocol):
    """A video whose clips can be decoded by number; hashable."""

    @property
    def clip_bytes(self) -> int:
        """Bytes of a clip."""

    def decode(self, first: int, last: int) -> NDArray[np.uint8]:
        """Return the clips from ``first`` to before ``last``, (n, 3, T, H, W)."""


def default_cache_bytes() -> int:
    """Return a quarter of the memory that is free now: runs side by side and pinned copies need the rest."""
    return available_memory() // 4


def default_workers(device_type: str) -> int:
    """Return how many videos are decoded side by side: on a CPU, whose cores train, one."""
    return 1 if device_type == "cpu" else max(1, min(MAX_WORKERS, (os.cpu_count() or 1) - 1))


class FrameLoader:
    """Clips of video files by number: from the cache, from those that were announced, else decoded now.

    Every worker is a thread that drives a decoding process of its own (``datasets.video.decord_reader``),
    which is killed when it hangs, and resizes what that hands over. The cache forgets the clips that were not
    asked for longest. Only the thread that made the loader may ask it.
    """

    def __init__(self, cache_bytes: int, workers: int = 1) -> None:
        self.cache_bytes = cache_bytes
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers, "decoding")
        self._kept: OrderedDict[tuple[ClipSource, int], NDArray[np.uint8]] = OrderedDict()
        self._kept_bytes = 0
        self._ahead: dict[tuple[ClipSource, int, int], Future[dict[int, NDArray[np.uint8]]]] = {}

    def part(self, clips: ClipSource, first: int, last: int) -> NDArray[np.uint8]:
        """Return the clips from ``first`` to before ``last``, (n, 3, T, H, W), not to be written to.

        Raises InputError that names the file when it cannot be decoded.
        """
        announced = self._ahead.pop((clips, first, last), None)
        fresh = announced.result() if announced else {}
        numbers = range(first, last)
        # Between the announcement and now, clips that were kept may have been forgotten.
        while missing := [n for n in numbers if n not in fresh and (clips, n) not in self._kept]:
            fresh |= self._decode(clips, missing).result()
        found = [fresh[n] if n in fresh else self._kept[clips, n] for n in numbers]
        for n in numbers:
            if (clips, n) in self._kept:
                self._kept.move_to_end((clips, n))
        whole = _joined(found)
        self._keep(clips, fresh)
        return whole

    def expect(self, wanted: Sequence[tuple[ClipSource, int, int]]) -> None:
        """Begin to decode parts, in this order; drop what was announced before and is not among them."""
        for key in self._ahead.keys() - set(wanted):
            self._ahead.pop(key).cancel()
        for key in wanted:
            clips, first, last = key
            missing = [n for n in range(first, last) if (clips, n) not in self._kept]
            if missing and key not in self._ahead:
                self._ahead[key] = self._decode(clips, missing)

    def close(self) -> None:
        """Drop everything and end the decoding processes."""
        self._pool.shutdown(cancel_futures=True)
        self._ahead.clear()
        self._kept.clear()
        self._kept_bytes = 0
        stop_workers()

    def _decode(self, clips: ClipSource, numbers: Sequence[int]) -> Future[dict[int, NDArray[np.uint8]]]:
        first, last = numbers[0], numbers[-1] + 1

        def decode() -> dict[int, NDArray[np.uint8]]:
            return dict(zip(range(first, last), clips.decode(first, last), strict=True))

        return self._pool.submit(decode)

    def _keep(self, clips: ClipSource, fresh: dict[int, NDArray[np.uint8]]) -> None:
        if clips.clip_bytes > self.cache_bytes:
            return
        for number, clip in fresh.items():
            if (clips, number) not in self._kept:
                # A copy, because a part of a window would keep all of the window alive.
                self._kept[clips, number] = clip.copy()
                self._kept_bytes += clip.nbytes
            while self._kept_bytes > self.cache_bytes:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes


def _joined(clips: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the clips as one array: the one that they are parts of if they are all of it, else a copy."""
    whole = clips[0].base
    if (
        isinstance(whole, np.ndarray)
        and whole.shape == (len(clips), *clips[0].shape)
        and all(clip.base is whole for clip in clips)
    ):
        return whole
    return np.stack(clips)
