"""Read frames by index with torchcodec, an optional reader: it needs FFmpeg's libraries on the machine."""

import importlib
import importlib.util
import threading
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from datasets.video.index import VideoIndex

CHUNK_BYTES = 16 * 2**20
"""Largest number of bytes of decoded frames in one chunk; a chunk has at least one frame."""


class TorchcodecError(Exception):
    """torchcodec cannot read a file, or gives frames of other times; another reader may."""


@cache
def torchcodec_installed() -> bool:
    """Return whether torchcodec is installed and finds FFmpeg's libraries."""
    if importlib.util.find_spec("torchcodec") is None:
        return False
    try:
        importlib.import_module("torchcodec.decoders")
    except (ImportError, RuntimeError, OSError):
        return False
    return True


def torchcodec_version() -> str:
    """Return the installed version of torchcodec."""
    return version("torchcodec")


def seeks_wrongly(index: "VideoIndex") -> str | None:
    """Return why torchcodec would give other pictures than asked for, by the file's index; None if not.

    It gives frames by their presentation times, so open GOPs are no problem; after a seek into a file with
    intra refresh, FFmpeg gives frames whose reference frames were not decoded.
    """
    times = index.timeline
    if times is None:
        return "the container has no presentation times"
    if times.repaired or times.restarts:
        return "some presentation times are missing, repeated or out of order"
    if any(name in ("mpegts", "mpeg", "asf") for name in index.container.split(",")):
        return f"it seeks inexactly in {index.container}"
    if index.discarded:
        return f"an edit list cuts off {index.discarded} frames"
    if index.orientation.rotation is None:
        return "the display matrix mirrors the pictures"
    if not times.instant:
        return "some key frames need earlier frames (intra refresh)"
    return None


def torchcodec_frames(
    path: Path, index: "VideoIndex", needed: NDArray[np.int64], num_threads: int = 1
) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames (n, height, width, 3) of ascending indices in chunks, upright.

    Raises `TorchcodecError` if it fails, or if the frames' times are not those of the index.
    """
    times = index.timeline
    assert times is not None
    length = max(1, CHUNK_BYTES // (index.width * index.height * 3))
    try:
        decoder = _decoder(path, index.stream, num_threads)
        if decoder.metadata.num_frames != len(times.ticks):
            raise TorchcodecError(f"{path}: torchcodec counts {decoder.metadata.num_frames} frames")
        for begin in range(0, len(needed), length):
            some = needed[begin : begin + length]
            batch = decoder.get_frames_at(some.tolist())
            expected = times.ticks[some] * index.tick_seconds
            if np.abs(batch.pts_seconds.numpy() - expected).max() > index.tick_seconds / 2:
                raise TorchcodecError(f"{path}: torchcodec gives frames of other times")
            frames = batch.data.numpy()
            if frames.shape[1:] != (*index.shown, 3):
                raise TorchcodecError(f"{path}: torchcodec gives frames of shape {frames.shape}")
            yield frames
    except (RuntimeError, ValueError, IndexError) as error:
        raise TorchcodecError(f"{path}: torchcodec: {' '.join(str(error).split())[:200]}") from None


_last = threading.local()
"""Each thread's last decoder: opening a file again would read all of its packets again."""


def _decoder(path: Path, stream: int, num_threads: int) -> Any:
    from torchcodec.decoders import VideoDecoder

    wanted = (path.absolute(), path.stat().st_mtime_ns, stream, num_threads)
    if getattr(_last, "wanted", None) != wanted:
        _last.decoder = VideoDecoder(
            str(path.absolute()),
            stream_index=stream,
            dimension_order="NHWC",
            num_ffmpeg_threads=num_threads,
            seek_mode="exact",
        )
        _last.wanted = wanted
    return _last.decoder
