"""Prefetching of decoded clips: parallel decoding processes, and a cache of bounded size."""

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
        """Return the clips ``first`` to ``last - 1``, (n, 3, T, H, W)."""


def default_cache_bytes() -> int:
    """Return a quarter of the available memory: concurrent runs and pinned copies need the rest."""
    return available_memory() // 4


def default_workers(device_type: str) -> int:
    """Return how many videos are decoded in parallel: one on a CPU, whose cores are used for training."""
    return 1 if device_type == "cpu" else max(1, min(MAX_WORKERS, (os.cpu_count() or 1) - 1))


class FrameLoader:
    """A loader of clips of video files by number: cached, prefetched, or decoded on demand.

    Every worker is a thread with its own decoding process (``datasets.video.decord_reader``), which is killed
    when it hangs; the thread resizes the frames. The cache evicts the least recently used clips. Only the
    thread that created the loader may use it.
    """

    def __init__(self, cache_bytes: int, workers: int = 1) -> None:
        self.cache_bytes = cache_bytes
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers, "decoding")
        self._kept: OrderedDict[tuple[ClipSource, int], NDArray[np.uint8]] = OrderedDict()
        self._kept_bytes = 0
        self._ahead: dict[tuple[ClipSource, int, int], Future[dict[int, NDArray[np.uint8]]]] = {}

    def part(self, clips: ClipSource, first: int, last: int) -> NDArray[np.uint8]:
        """Return the clips ``first`` to ``last - 1``, (n, 3, T, H, W); they must not be written to.

        Raises InputError that names the file if it cannot be decoded.
        """
        announced = self._ahead.pop((clips, first, last), None)
        fresh = announced.result() if announced else {}
        numbers = range(first, last)
        # Clips that were cached at the time of prefetching may have been evicted since.
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
        """Start to prefetch parts, in this order; cancel earlier prefetches that are not among them."""
        for key in self._ahead.keys() - set(wanted):
            self._ahead.pop(key).cancel()
        for key in wanted:
            clips, first, last = key
            missing = [n for n in range(first, last) if (clips, n) not in self._kept]
            if missing and key not in self._ahead:
                self._ahead[key] = self._decode(clips, missing)

    def close(self) -> None:
        """Clear the cache and end the decoding processes."""
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
                # A copy, because a view would keep the whole window in memory.
                self._kept[clips, number] = clip.copy()
                self._kept_bytes += clip.nbytes
            while self._kept_bytes > self.cache_bytes:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes


def _joined(clips: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the clips as one array: their common base if they are all of it, else a copy."""
    whole = clips[0].base
    if (
        isinstance(whole, np.ndarray)
        and whole.shape == (len(clips), *clips[0].shape)
        and all(clip.base is whole for clip in clips)
    ):
        return whole
    return np.stack(clips)
