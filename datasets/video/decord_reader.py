"""Read frames by index with decord, which runs in a separate process (`datasets.video.decord_worker`)."""

import atexit
import importlib.util
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.io.errors import StuckDecoderError
from bench.io.json_lines import Worker, module_command

if TYPE_CHECKING:
    from datasets.video.index import VideoIndex

CHUNK_FRAMES = 64
CHUNK_BYTES = 16 * 2**20
"""Largest number and bytes of natively decoded frames in one chunk; a chunk has at least one frame."""
SECONDS = 20.0
SECONDS_PER_FRAME = 2.0
"""Time limit of a request per frame; a frame far from a key frame of a large video may take a second."""
START_SECONDS = 60.0
"""Time limit for the start of a worker and its imports."""
GRACE_SECONDS = 5.0
"""Time for the worker's own alarm to end it; then it is killed, e.g. if stopped or blocked on a disk."""
# Memory returned to the system after every chunk would be requested again for the next: 20% of the time.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "1073741824"}
WORKER = module_command("datasets.video.decord_worker")
CONTAINERS = ("mov", "mp4", "matroska", "webm", "avi")
"""Containers in which decord seeks correctly; in MPEG-TS it repeats frames, in ASF it lands elsewhere."""


class DecordError(Exception):
    """decord cannot read a file, or not correctly; another reader may."""


@dataclass(frozen=True)
class _Request:
    """A pending request: frames, start time and time limit."""

    first: int
    last: int
    since: float
    seconds: float


@dataclass
class _Worker:
    lines: Worker
    memory: mmap.mmap
    asked: _Request | None = None
    """The last request."""


def decord_installed() -> bool:
    """Return whether decord is installed."""
    return importlib.util.find_spec("decord") is not None


def decord_version() -> str:
    """Return the installed version of decord."""
    return version("decord")


def seeks_wrongly(index: "VideoIndex") -> str | None:
    """Return why decord would give other pictures than asked for, by the file's index alone; None if not.

    decord numbers frames in decoding order and counts them after a seek, without looking at their times. So
    every key frame must begin its group in both orders and need no earlier frame.
    """
    times = index.timeline
    if not any(name in CONTAINERS for name in index.container.split(",")):
        return f"it seeks inexactly in {index.container}"
    if times is None:
        return "the container has no presentation times"
    if index.streams > 1:
        return f"the file has {index.streams} video streams"
    if index.discarded:
        return f"an edit list cuts off {index.discarded} frames"
    if times.repaired or times.restarts:
        return "some presentation times are missing, repeated or out of order"
    if index.orientation.rotation is None:
        return "the display matrix mirrors the pictures"
    if not times.closed:
        return "some key frames do not begin their group of pictures (open GOP, intra refresh)"
    return None


def decord_frames(
    path: Path, index: "VideoIndex", needed: NDArray[np.int64], num_threads: int = 1
) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames (n, height, width, 3) of ascending indices in chunks, upright: decord rotates them.

    A chunk is valid until the next is requested. The next one is decoded while the caller processes a chunk.
    Raises `DecordError` if decord fails, crashes, or counts other frames than the demuxer did, and
    `StuckDecoderError`, which names the frames, if it exceeds the time limit.
    """
    frame_bytes = index.width * index.height * 3
    length = max(1, min(CHUNK_FRAMES, CHUNK_BYTES // frame_bytes))
    requests = [needed[begin : begin + length] for begin in range(0, len(needed), length)]
    worker = _worker(max(CHUNK_BYTES, frame_bytes))
    try:
        _send(worker, path, requests[0], 0, num_threads)
        for number, indices in enumerate(requests):
            shape = _receive(worker, path, len(index.starts))
            if number + 1 < len(requests):
                _send(worker, path, requests[number + 1], number + 1, num_threads)
            begin = _offset(worker, number)
            frames = np.frombuffer(worker.memory, np.uint8, int(np.prod(shape)), begin).reshape(shape)
            if shape[0] != len(indices) or tuple(shape[1:]) != (*index.shown, 3):
                raise DecordError(f"{path}: frames of shape {shape}")
            yield frames
    except BaseException:
        # An answer may still be pending: the next file must not receive it.
        stop_worker()
        raise


def _offset(worker: _Worker, number: int) -> int:
    return (number % 2) * (len(worker.memory) // 2)


def _send(worker: _Worker, path: Path, indices: NDArray[np.int64], number: int, num_threads: int) -> None:
    seconds = SECONDS + SECONDS_PER_FRAME * len(indices)
    request = {
        "path": str(path.absolute()),
        "modified": path.stat().st_mtime_ns,
        "threads": num_threads,
        "indices": indices.tolist(),
        "offset": _offset(worker, number),
        "seconds": seconds,
    }
    patience = seconds + GRACE_SECONDS + (0.0 if worker.asked else START_SECONDS)
    worker.asked = _Request(int(indices[0]), int(indices[-1]), time.monotonic(), patience)
    try:
        worker.lines.send(request)
    except OSError:
        raise DecordError(f"{path}: decord's process has ended") from None


def _receive(worker: _Worker, path: Path, frames: int) -> list[int]:
    asked = worker.asked
    assert asked is not None
    try:
        # The answer may have arrived long ago, while the caller processed the previous frames.
        answer = worker.lines.receive(asked.since + asked.seconds)
    except EOFError:
        raise DecordError(f"{path}: decord: it crashed") from None
    except TimeoutError:
        waited = round(time.monotonic() - asked.since, 1)
        facts = {"video": str(path), "first_frame": asked.first, "last_frame": asked.last, "seconds": waited}
        raise StuckDecoderError(
            f"{path}: decord gave no answer for {waited:.0f} s and was killed, "
            f"at frames {asked.first} to {asked.last} (counted from 0)",
            {"decoding": [facts]},
        ) from None
    if "error" in answer:
        raise DecordError(f"{path}: decord: {answer['error']}")
    if answer["frames"] != frames:
        raise DecordError(f"{path}: decord counts {answer['frames']} frames, the container {frames}")
    return list(answer["shape"])


_workers: dict[tuple[int, int], _Worker] = {}
"""Workers by process id and thread id: a forked child, and every thread, starts its own."""


def _mine() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def _worker(slot_bytes: int) -> _Worker:
    """Return this thread's worker if it is running and its memory is large enough, else a new one."""
    worker = _workers.get(_mine())
    if worker and worker.lines.running and len(worker.memory) >= 2 * slot_bytes:
        return worker
    stop_worker()
    size = 2 * slot_bytes
    handle = _shared_memory(size)
    try:
        environment = {name: os.environ.get(name, value) for name, value in ALLOCATOR.items()}
        lines = Worker([*WORKER, str(handle), str(size)], environment=environment, pass_fds=(handle,))
        memory = mmap.mmap(handle, size)
    finally:
        os.close(handle)
    return _workers.setdefault(_mine(), _Worker(lines, memory))


def _shared_memory(size: int) -> int:
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("frames", 0)
    else:
        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    os.ftruncate(handle, size)
    return handle


def stop_worker() -> None:
    """End the worker of this thread, if there is one; the next file starts a new one."""
    _stop(_mine())


@atexit.register
def stop_workers() -> None:
    """End the workers of all of this process's threads."""
    for owner in list(_workers):
        if owner[0] == os.getpid():
            _stop(owner)


def _stop(owner: tuple[int, int]) -> None:
    if (worker := _workers.pop(owner, None)) is not None:
        worker.lines.close()
