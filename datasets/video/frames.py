"""Video files: their properties, and their pictures at given times.

PyAV first indexes every file without decoding (`datasets.video.index`). decord then decodes it in a separate
process; PyAV decodes it if decord is not installed or does not read the file reliably. Both return the same
frames.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.io.errors import InputError
from datasets.video.decord_reader import DecordError, decord_frames, decord_installed, is_supported
from datasets.video.index import VideoIndex, fail, inspect
from datasets.video.pyav_reader import pyav_frames

PYAV = f"PyAV {av.__version__}"

_served: dict[str, set[Path]] = {}
"""The files that each reader has read, wholly or in part."""


@dataclass(frozen=True)
class Reading:
    """A read in progress in a thread: file, first and last frame, and start time (monotonic)."""

    path: Path
    first: int
    last: int
    since: float


_reading: dict[int, Reading] = {}


def reading_now() -> tuple[Reading, ...]:
    """Return the reads in progress in this process's threads, the longest first."""
    return tuple(sorted(_reading.values(), key=lambda each: each.since))


@dataclass(frozen=True)
class VideoInfo:
    """The properties of a file: frames, mean rate, seconds, displayed size in pixels; and its reader.

    `offset_seconds` is the container's time of the first frame, which is time 0 here.
    """

    frames: int
    frames_per_second: float
    duration: float
    width: int
    height: int
    reader: str
    variable_rate: bool = False
    offset_seconds: float = 0.0
    rotation: int = 0


def decord_name() -> str:
    """Return name and version of decord for the record."""
    return f"decord {version('decord')}"


def readers_installed() -> str:
    """Return names and versions of the readers that may decode a file on this machine."""
    return ", ".join([*([decord_name()] if decord_installed() else []), PYAV])


def readers_used() -> str | None:
    """Return the readers that this process has used, with numbers of files; None before any file."""
    if len(_served) < 2:
        return next(iter(_served), None)
    return ", ".join(f"{name} ({len(files)} files)" for name, files in sorted(_served.items()))


def probe(path: Path | str) -> VideoInfo:
    """Return the facts of one video file; raise `InputError` if its first or last frame is not decodable."""
    path = Path(path)
    index = inspect(path)
    try:
        for _ in pyav_frames(path, index, np.array([len(index.starts) - 1])):
            pass
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        fail(path, "its last frame cannot be decoded; it may be truncated")
    height, width = index.shown
    return VideoInfo(
        frames=len(index.starts),
        frames_per_second=index.rate,
        duration=index.duration,
        width=width,
        height=height,
        reader=decord_name() if _decord_serves(index) else PYAV,
        variable_rate=index.variable_rate,
        offset_seconds=index.offset,
        rotation=index.rotation,
    )


def read_frames(
    path: Path | str, times: ArrayLike, size: int | None = None, num_threads: int = 1
) -> NDArray[np.uint8]:
    """Return the pictures displayed at `times` (n,) in seconds: uint8 (n, height, width, 3), RGB, upright.

    Time 0 is the first frame's start. The picture at a time is the last frame that starts no later, so at the
    middle of a frame it is that frame; times before the first or after the last frame are clamped to these.
    Frames are decoded at their own size and, with `size` given, resized to size x size pixels by antialiased
    bilinear interpolation in torch, without keeping the aspect: decord's own resize fails at some widths.
    Only two chunks of frames are held at the file's own size.

    `num_threads` is the decoder's number of threads; 0 lets it choose. Raises `InputError` for a file that
    cannot be read, and `ValueError` for times that are not a finite vector or a size below 1.
    """
    instants, index, (height, width) = _asked(path, times, size)
    result = np.empty((len(instants), height, width, 3), dtype=np.uint8)
    _read(Path(path), index, instants, result, num_threads)
    return result


def read_clips(
    path: Path | str, times: ArrayLike, clip_frames: int, size: int | None = None, num_threads: int = 1
) -> NDArray[np.uint8]:
    """Return the pictures of `read_frames` as clips: uint8 (clips, 3, clip_frames, height, width).

    `times` has a multiple of `clip_frames` elements. No frame is held in memory twice.
    """
    instants, index, (height, width) = _asked(path, times, size)
    result = np.empty((len(instants) // clip_frames, 3, clip_frames, height, width), dtype=np.uint8)
    pictures = [clip[:, number].transpose(1, 2, 0) for clip in result for number in range(clip_frames)]
    if len(pictures) != len(instants):
        raise ValueError(f"times has {len(instants)} instants, a multiple of {clip_frames} is needed")
    _read(Path(path), index, instants, pictures, num_threads)
    return result


def _asked(
    path: Path | str, times: ArrayLike, size: int | None
) -> tuple[NDArray[np.float64], VideoIndex, tuple[int, int]]:
    """Check the arguments; return the times, the file's index, and height and width of a picture."""
    instants = np.asarray(times, dtype=np.float64)
    if instants.ndim != 1 or not np.isfinite(instants).all():
        raise ValueError(f"times has shape {instants.shape}, a vector of finite seconds is needed")
    if size is not None and size < 1:
        raise ValueError(f"size is {size}, at least 1 pixel is needed")
    index = inspect(Path(path))
    return instants, index, index.shown if size is None else (size, size)


def _read(
    path: Path,
    index: VideoIndex,
    instants: NDArray[np.float64],
    pictures: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    num_threads: int,
) -> None:
    """Fill pictures (height, width, 3), one for each time."""
    needed, place = np.unique(index.frame_indices(instants), return_inverse=True)
    if len(needed) == 0:
        return
    thread = threading.get_ident()
    _reading[thread] = Reading(path, int(needed[0]), int(needed[-1]), time.monotonic())
    try:
        _decode(path, index, needed, place, pictures, num_threads)
    finally:
        del _reading[thread]


def _decode(
    path: Path,
    index: VideoIndex,
    needed: NDArray[np.int64],
    place: NDArray[np.intp],
    pictures: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    num_threads: int,
) -> None:
    order = np.argsort(place, kind="stable")
    bounds = np.searchsorted(place[order], np.arange(len(needed) + 1))
    if _decord_serves(index):
        try:
            _fill(pictures, decord_frames(path, index, needed, num_threads), order, bounds)
            _served.setdefault(decord_name(), set()).add(path)
            return
        except DecordError:
            pass  # PyAV may read it; if not, its error says why
    try:
        _fill(pictures, _chunks(pyav_frames(path, index, needed, num_threads)), order, bounds)
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        fail(path, "some of its frames cannot be decoded; it may be truncated or damaged")
    _served.setdefault(PYAV, set()).add(path)


def _decord_serves(index: VideoIndex) -> bool:
    return decord_installed() and is_supported(index)


def _chunks(frames: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Yield frames (h, w, 3) as chunks of one frame, (1, h, w, 3)."""
    for frame in frames:
        yield frame[None]


def _fill(
    pictures: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    chunks: Iterator[NDArray[np.uint8]],
    order: NDArray[np.int64],
    bounds: NDArray[np.int64],
) -> None:
    """Write the needed frames, which arrive in ascending order, to every picture that shows them."""
    done, shape = 0, pictures[0].shape[:2]
    for frames in chunks:
        for frame in frames if frames.shape[1:3] == shape else _resize(frames, shape):
            # Several times may fall on one frame: at a low frame rate, or if they were clamped.
            for number in order[bounds[done] : bounds[done + 1]]:
                pictures[number][...] = frame
            done += 1
    assert done == len(bounds) - 1


def _resize(frames: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[Any]:
    import torch
    from torch.nn import functional as F

    pictures = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    resized = F.interpolate(pictures, list(shape), mode="bilinear", align_corners=False, antialias=True)
    return np.asarray(resized.permute(0, 2, 3, 1).numpy())
