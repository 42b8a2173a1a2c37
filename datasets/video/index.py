"""The frame index of a video file, made by one pass through the demuxer, without decoding.

Frames are selected by the demuxer's presentation times: frame counts and times of decoders are trusted only
if they agree with these.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import av
import numpy as np
from numpy.typing import NDArray

from bench.io.errors import InputError

MAX_PIXELS = 2**27
"""Largest frame (16384 x 8192): a larger one indicates a damaged header."""


FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,ivf"
"""Video containers only: no playlists, no image lists, no stream descriptions."""
LIMITS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """The frames of a file in presentation order.

    `starts` (n,) are seconds from the first frame's start; `ticks` (n,) are the container's times, None if it
    has none (AVI with B-frames): frames are then counted from the beginning. `rate` is the mean over the
    file. `offset` is the first frame's time in the container, `rotation` the multiple of 90 degrees
    counter-clockwise that makes the frame upright. Width and height are those of the decoded frame.
    """

    starts: NDArray[np.float64]
    ticks: NDArray[np.int64] | None
    rate: float
    duration: float
    offset: float
    width: int
    height: int
    rotation: int
    container: str

    def frame_indices(self, instants: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the indices of the frames displayed at given times: the last frame that starts no later.

        Times before the first frame give the first frame.
        """
        # Containers store times as single floats or coarse ticks: tolerate starts that are late by rounding.
        late = 1e-3 / self.rate
        found = np.searchsorted(self.starts, instants + late, side="right") - 1
        return np.asarray(np.clip(found, 0, len(self.starts) - 1), dtype=np.int64)

    @property
    def shown(self) -> tuple[int, int]:
        """Height and width of the upright frame."""
        return (self.width, self.height) if self.rotation % 180 else (self.height, self.width)

    @property
    def variable_rate(self) -> bool:
        """Whether more than 1% of the frames last less than half or more than twice the typical time."""
        if len(self.starts) < 3:
            return False
        spans = np.diff(self.starts)
        usual = float(np.median(spans))
        return bool(np.mean((spans < usual / 2) | (spans > usual * 2)) > 0.01)


def open_video(path: Path) -> Any:
    """Return an open container for a `with` block; PyAV raises an error for other than the known formats.

    Without these limits FFmpeg would open a text file of names as a playlist, whatever its name, and a path
    that looks like a URL as a URL.
    """
    return av.open(str(path.absolute()), container_options=LIMITS)


def inspect(path: Path) -> VideoIndex:
    """Return the index of a file, cached until the file changes; `InputError` if not a complete video."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        fail(path, "there is no such file")
    if not path.is_file():
        fail(path, "it is no file")
    if status.st_size == 0:
        fail(path, "it is empty")
    return _inspect(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8192)
def _inspect(path: Path, modified: int, size: int) -> VideoIndex:
    try:
        with open_video(path) as container:
            if not container.streams.video:
                fail(path, "it holds no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                fail(path, "its codec is not known")
            return _index(path, container, stream)
    except (av.FFmpegError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        fail(path, "it is no video that can be read; it may be truncated")


def _index(path: Path, container: Any, stream: Any) -> VideoIndex:
    # Keep only the needed fields of packets: with their data the whole file would be in memory.
    shown = [
        (packet.pts, packet.duration, packet.is_corrupt)
        for packet in container.demux(stream)
        if packet.size and not packet.is_discard
    ]
    if not shown:
        fail(path, "it holds no frames")
    # Some writers declare one frame more or less; in a truncated file many are missing.
    declared = stream.frames
    if len(shown) < declared - max(2, declared // 100):
        fail(path, f"it is truncated: {len(shown)} of {declared} frames are there")
    if any(corrupt for _, _, corrupt in shown):
        fail(path, "it is damaged or truncated")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        fail(path, f"its frames are {width} x {height} pixels")
    nominal = float(stream.average_rate or stream.guessed_rate or 0)
    seconds = float(stream.time_base or 0)
    times = [moment for moment, _, _ in shown]
    # AVI has no presentation times: PyAV's values follow the decoding order.
    timed = None not in times and seconds > 0 and container.format.name != "avi"
    ticks = np.sort(np.array(times, dtype=np.int64)) if timed else None
    if ticks is not None and len(ticks) > 1 and not (np.diff(ticks) > 0).all():
        ticks = None
    if ticks is None:
        if not (np.isfinite(nominal) and nominal > 0):
            fail(path, f"its frame rate reads as {nominal:g}")
        starts, rate, offset = np.arange(len(shown)) / nominal, nominal, 0.0
        last = 1 / nominal
    else:
        starts, offset = (ticks - ticks[0]) * seconds, float(ticks[0] * seconds)
        last = float((shown[-1][1] or 0) * seconds)
        if len(ticks) > 1:
            rate = float((len(ticks) - 1) / starts[-1])
            last = last if 0 < last * rate < 100 else 1 / rate
        else:
            last = last or (1 / nominal if nominal > 0 else 0.0)
            rate = 1 / last if last > 0 else 0.0
        if not (np.isfinite(rate) and rate > 0):
            fail(path, f"its frame rate reads as {rate:g}")
    return VideoIndex(
        starts=np.asarray(starts, dtype=np.float64),
        ticks=ticks,
        rate=rate,
        duration=float(starts[-1] + last),
        offset=offset,
        width=width,
        height=height,
        rotation=_rotation(path, container, stream),
        container=str(container.format.name),
    )


def _rotation(path: Path, container: Any, stream: Any) -> int:
    """Return the display matrix's rotation, read from a decoded frame; 0 if not a multiple of 90 degrees."""
    first = first_frame(container, stream)
    if first is None:
        fail(path, "none of its first frames can be decoded")
    turn = round(getattr(first, "rotation", 0) or 0) % 360
    return turn if turn % 90 == 0 else 0


def first_frame(container: Any, stream: Any) -> Any:
    """Return the first decodable frame from the beginning of a container, or None."""
    try:
        container.seek(0, stream=stream)
    except av.FFmpegError:
        return None
    for packets, packet in enumerate(container.demux(stream)):
        try:
            for frame in packet.decode():
                return frame
        except av.FFmpegError:
            pass
        if packets > 256:
            break
    return None


def fail(path: Path, problem: str) -> NoReturn:
    """Raise the one-line error of a file that cannot be used."""
    raise InputError(f"{path}: {problem}; a video file with decodable frames is needed") from None
