"""Video files, read with decord: what a file holds, and its pictures at given times.

PyAV looks at every file first, without decoding: decord prints to the terminal, or waits for ever, on some of
the broken files that PyAV refuses at once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import av
import decord
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional as F

from bench.errors import InputError

CHUNK_FRAMES = 64
CHUNK_BYTES = 32 * 2**20
"""Natively decoded frames held at once: at most so many, and at most so many bytes (one frame at least)."""

READER = f"decord {decord.__version__}"

decord.logging.set_level(decord.logging.QUIET)


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds: frames, their mean rate, seconds, width and height in pixels; and who read it."""

    frames: int
    frames_per_second: float
    duration: float
    width: int
    height: int
    reader: str = READER


def probe(path: Path | str) -> VideoInfo:
    """The facts of one video file; its first frame is decoded. `InputError` for what cannot be read."""
    video = _open(Path(path), num_threads=1)
    height, width = video.frame(0).shape[:2]
    return VideoInfo(
        frames=len(video.starts),
        frames_per_second=video.rate,
        duration=video.duration,
        width=int(width),
        height=int(height),
    )


def read_frames(
    path: Path | str, times: ArrayLike, size: int | None = None, num_threads: int = 1
) -> NDArray[np.uint8]:
    """The pictures on screen at `times` (n,) in seconds: uint8 (n, height, width, 3), RGB.

    Time 0 is the first frame's start. The picture at a time is that of the last frame starting no later, so
    at the middle of a frame it is that frame; times before the first and after the last frame take those.
    Frames are decoded at their own size and, with `size` given, resized to size x size pixels by antialiased
    bilinear interpolation in torch, without keeping the aspect: decord's own resize fails at some widths.
    Only a chunk of frames is held at the file's own size.

    `num_threads` are decord's; 0 lets it choose. Raises `InputError` for a file that cannot be read, and
    `ValueError` for times that are not a finite vector or a size below 1.
    """
    instants = np.asarray(times, dtype=np.float64)
    if instants.ndim != 1 or not np.isfinite(instants).all():
        raise ValueError(f"times has shape {instants.shape}, a vector of finite seconds is needed")
    if size is not None and size < 1:
        raise ValueError(f"size is {size}, at least 1 pixel is needed")
    video = _open(Path(path), num_threads)
    height, width = video.frame(0).shape[:2] if size is None else (size, size)
    result = np.empty((len(instants), height, width, 3), dtype=np.uint8)
    needed, place = np.unique(video.indices(instants), return_inverse=True)
    order = np.argsort(place, kind="stable")
    bounds = np.searchsorted(place[order], np.arange(len(needed) + 1))
    done = 0
    for frames in video.chunks(needed):
        resized = frames if size is None else _resize(frames, size)
        for frame in resized:
            # Several times may fall on one frame, when it is slower than they or they were clamped.
            result[order[bounds[done] : bounds[done + 1]]] = frame
            done += 1
    assert done == len(needed)
    return result


def _resize(frames: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    if frames.shape[1:3] == (size, size):
        return frames
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2)
    resized = F.interpolate(pictures, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return np.asarray(resized.permute(0, 2, 3, 1).numpy())


@dataclass(frozen=True, eq=False)
class _OpenVideo:
    """An open decord reader with the start of each frame in seconds, counted from the first frame's.

    `seekable` is False where the container has no times of presentation (AVI): decord then guesses them and
    lands on wrong pictures after a seek, so such a file is decoded from its beginning.
    """

    path: Path
    reader: Any
    starts: NDArray[np.float64]
    rate: float
    duration: float
    seekable: bool

    def indices(self, instants: NDArray[np.float64]) -> NDArray[np.int64]:
        # Containers keep times as single floats or coarse ticks: a start late by rounding is still on time.
        late = 1e-3 / self.rate
        found = np.searchsorted(self.starts, instants + late, side="right") - 1
        return np.asarray(np.clip(found, 0, len(self.starts) - 1), dtype=np.int64)

    def frame(self, index: int) -> NDArray[np.uint8]:
        return np.asarray(self.batch([index])[0])

    def batch(self, indices: Iterable[int]) -> NDArray[np.uint8]:
        try:
            return np.asarray(self.reader.get_batch(list(indices)).asnumpy(), dtype=np.uint8)
        except (decord.DECORDError, RuntimeError, IndexError):
            _fail(self.path, "some of its frames cannot be decoded; it may be truncated or damaged")

    def chunks(self, needed: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """The frames of ascending indices, in chunks of bounded memory."""
        if len(needed) == 0:
            return
        first = self.frame(0)
        length = max(1, min(CHUNK_FRAMES, CHUNK_BYTES // first.nbytes))
        if self.seekable:
            for begin in range(0, len(needed), length):
                yield self.batch(needed[begin : begin + length].tolist())
            return
        self.reader.seek(0)
        for begin in range(0, int(needed[-1]) + 1, length):
            end = min(begin + length, len(self.starts))
            frames = self.batch(range(begin, end))
            wanted = needed[(needed >= begin) & (needed < end)] - begin
            yield frames[wanted]


def _open(path: Path, num_threads: int) -> _OpenVideo:
    packets = _inspect(path)
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=num_threads)
        frames = len(reader)
        rate = float(reader.get_avg_fps())
        spans = np.asarray(reader.get_frame_timestamp(list(range(frames))), dtype=np.float64)
    except (decord.DECORDError, RuntimeError, IndexError):
        _fail(path, "decord cannot read it; it may be truncated or of an unusual codec")
    if frames < 1 or packets < 1:
        _fail(path, "it holds no frames")
    if not (np.isfinite(rate) and rate > 0):
        _fail(path, f"its frame rate reads as {rate}")
    starts = spans[:, 0] - spans[0, 0]
    seekable = bool(np.isfinite(spans).all() and (spans > -1e6).all() and (np.diff(starts) > 0).all())
    if seekable:
        duration = float(spans[-1, 1] - spans[0, 0])
    else:
        starts = np.arange(frames) / rate
        duration = frames / rate
    return _OpenVideo(path, reader, starts, rate, duration, seekable)


def _inspect(path: Path) -> int:
    """How many packets of video the file holds; refuses what decord cannot be trusted with."""
    try:
        status = path.stat()
    except OSError:
        _fail(path, "there is no such file")
    if not path.is_file():
        _fail(path, "it is no file")
    if status.st_size == 0:
        _fail(path, "it is empty")
    return _count_packets(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8192)
def _count_packets(path: Path, modified: int, size: int) -> int:
    """Read the file once through the demuxer (no decoding); cached until the file changes."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                _fail(path, "it holds no video stream")
            stream = container.streams.video[0]
            declared = stream.frames
            sizes = [(packet.size, packet.is_corrupt) for packet in container.demux(stream) if packet.size]
    except (av.FFmpegError, ValueError):
        _fail(path, "it is no video that can be read; it may be truncated")
    # Some writers declare a frame more or less; a file that was cut lacks many.
    if len(sizes) < declared - max(2, declared // 100):
        _fail(path, f"it is truncated: {len(sizes)} of {declared} frames are there")
    if any(corrupt for _, corrupt in sizes):
        _fail(path, "it is damaged or truncated")
    return len(sizes)


def _fail(path: Path, problem: str) -> NoReturn:
    raise InputError(f"{path}: {problem}; a video file with decodable frames is needed") from None
