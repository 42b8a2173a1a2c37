"""Video files: their properties, and their pictures at given times.

PyAV first indexes every file without decoding (`datasets.video.index`). decord then decodes it in a separate
process if it is installed and proved to give the right pictures of this file
(`datasets.video.reader_choice`), else torchcodec likewise, else PyAV. All return the same frames.
"""

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.io.cache_dir import default_cache_dir
from bench.io.errors import InputError
from bench.io.reading import file_sha256
from datasets.video import Reading, note_read, reading
from datasets.video.container import fail
from datasets.video.image_folder import image_frames, list_images
from datasets.video.index import IMAGES, VideoIndex, inspect
from datasets.video.pyav_reader import pyav_frames
from datasets.video.reader_choice import Reader, choose, fast_readers, wanted_reader

PYAV = f"PyAV {av.__version__}"


@dataclass(frozen=True)
class VideoInfo:
    """The properties of a file: frames, mean rate, seconds, displayed size in pixels; and its reader.

    `offset_seconds` is the container's time of the first frame, which is time 0 here. Frames are turned by
    `rotation` degrees counter-clockwise for display, or `mirrored` (then `rotation` is 0).
    `repaired_times` counts packets that were left out for their wrong times, `clock_restarts` the places
    where the times begin anew. `reader_reason` says why a faster reader is not used. If not `seekable`, every
    read decodes from the first frame.
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
    mirrored: bool = False
    repaired_times: int = 0
    clock_restarts: int = 0
    reader_reason: str = ""
    seekable: bool = True


def readers_installed() -> str:
    """Return names and versions of the readers that may decode a file on this machine."""
    return ", ".join([*(reader.name for reader in fast_readers(wanted_reader())), PYAV])


def probe(path: Path | str, rate: float | None = None) -> VideoInfo:
    """Return the facts of one video file; raise `InputError` if its first or last frame is not decodable.

    `rate` is the number of frames per second of a folder of images.
    """
    path = Path(path)
    index = inspect(path, rate)
    if index.container != IMAGES:
        try:
            for _ in pyav_frames(path, index, np.array([len(index.starts) - 1])):
                pass
        except (av.FFmpegError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            fail(path, "its last frame cannot be decoded; it may be truncated")
    height, width = index.shown
    reader, reason = _reader(path, index)
    times = index.timeline
    return VideoInfo(
        frames=len(index.starts),
        frames_per_second=index.rate,
        duration=index.duration,
        width=width,
        height=height,
        reader=_name(index, reader),
        variable_rate=index.variable_rate,
        offset_seconds=index.offset,
        rotation=index.orientation.rotation or 0,
        mirrored=index.orientation.rotation is None,
        repaired_times=times.repaired if times else 0,
        clock_restarts=times.restarts if times else 0,
        reader_reason=reason,
        seekable=index.seekable,
    )


def reader_of(path: Path, rate: float | None = None) -> str:
    """Return name and version of the reader that decodes a file."""
    index = inspect(path, rate)
    return _name(index, _reader(path, index)[0])


def source_sha256(path: Path) -> str:
    """Return the SHA-256 of a video file, or of the names and contents of a folder of images."""
    if not path.is_dir():
        return file_sha256(path)
    digest = hashlib.sha256()
    for name in list_images(path):
        digest.update(f"{name} {file_sha256(path / name)}\n".encode(errors="replace"))
    return digest.hexdigest()


def _name(index: VideoIndex, reader: Reader | None) -> str:
    return IMAGES if index.container == IMAGES else reader.name if reader else PYAV


def _reader(path: Path, index: VideoIndex) -> tuple[Reader | None, str]:
    """Return the reader of a file (None for PyAV) and why faster ones are not used."""
    wanted = wanted_reader()
    try:
        cache = default_cache_dir() / "readers"
    except InputError:
        cache = None  # no home folder: every process checks for itself
    reader, reason = choose(path, index, wanted, cache)
    if reader is None and wanted not in ("auto", "pyav") and index.container != IMAGES:
        raise InputError(f"{path}: --reader {wanted}: {reason or 'not installed'}; --reader auto reads it")
    return reader, reason


def read_frames(
    path: Path | str,
    times: ArrayLike,
    size: int | None = None,
    num_threads: int = 1,
    rate: float | None = None,
) -> NDArray[np.uint8]:
    """Return the pictures displayed at `times` (n,) in seconds: uint8 (n, height, width, 3), RGB, upright.

    Time 0 is the first frame's start. The picture at a time is the last frame that starts no later, so at the
    middle of a frame it is that frame; times before the first or after the last frame are clamped to these.
    Frames are decoded at their own size and, with `size` given, resized to size x size pixels by antialiased
    bilinear interpolation in torch, without keeping the aspect: decord's own resize fails at some widths.
    Only two chunks of frames are held at the file's own size.

    `num_threads` is the decoder's number of threads; 0 lets it choose. `rate` is the number of frames per
    second of a folder of images. Raises `InputError` for a file that cannot be read, and `ValueError` for
    times that are not a finite vector or a size below 1.
    """
    instants, index, shown = _asked(path, times, size, rate)
    result = np.empty((len(instants), *shown, 3), dtype=np.uint8)
    _read(Path(path), index, instants, result, num_threads)
    return result


def read_clips(
    path: Path | str,
    times: ArrayLike,
    clip_frames: int,
    size: int | None = None,
    num_threads: int = 1,
    rate: float | None = None,
) -> NDArray[np.uint8]:
    """Return the pictures of `read_frames` as clips: uint8 (clips, 3, clip_frames, height, width).

    `times` has a multiple of `clip_frames` elements. No frame is held in memory twice.
    """
    instants, index, (height, width) = _asked(path, times, size, rate)
    result = np.empty((len(instants) // clip_frames, 3, clip_frames, height, width), dtype=np.uint8)
    pictures = [clip[:, number].transpose(1, 2, 0) for clip in result for number in range(clip_frames)]
    if len(pictures) != len(instants):
        raise ValueError(f"times has {len(instants)} instants, a multiple of {clip_frames} is needed")
    _read(Path(path), index, instants, pictures, num_threads)
    return result


def _asked(
    path: Path | str, times: ArrayLike, size: int | None, rate: float | None
) -> tuple[NDArray[np.float64], VideoIndex, tuple[int, int]]:
    """Check the arguments; return the times, the file's index, and height and width of a picture."""
    instants = np.asarray(times, dtype=np.float64)
    if instants.ndim != 1 or not np.isfinite(instants).all():
        raise ValueError(f"times has shape {instants.shape}, a vector of finite seconds is needed")
    if size is not None and size < 1:
        raise ValueError(f"size is {size}, at least 1 pixel is needed")
    index = inspect(Path(path), rate)
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
    reading[thread] = Reading(path, int(needed[0]), int(needed[-1]), time.monotonic())
    try:
        _decode(path, index, needed, place, pictures, num_threads)
    finally:
        del reading[thread]


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
    reader, _ = _reader(path, index)
    if reader is not None:
        try:
            _fill(pictures, reader.frames(path, index, needed, num_threads), order, bounds)
            note_read(reader.name, path)
            return
        except reader.error:
            pass  # PyAV may read it; if not, its error says why
    if index.container == IMAGES:
        frames = image_frames(path, index.images, needed)
    else:
        frames = pyav_frames(path, index, needed, num_threads)
    try:
        _fill(pictures, _chunks(frames), order, bounds)
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        fail(path, "some of its frames cannot be decoded; it may be truncated or damaged")
    note_read(_name(index, None), path)


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
