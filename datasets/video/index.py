"""The frame index of a video file, made by one pass through the demuxer, without decoding.

Frames are selected by the demuxer's presentation times: frame counts and times of decoders are trusted only
if they agree with these.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from bench.io.errors import InputError
from datasets.video.image_folder import list_images, read_image
from datasets.video.orientation import UPRIGHT, Orientation, orientation_of
from datasets.video.timestamps import RESTARTING, Packet, Timeline, read_packets, timeline

MAX_PIXELS = 2**27
"""Largest frame (16384 x 8192): a larger one indicates a damaged header."""

MAX_UNDECODABLE = 256
"""Most packets at the beginning of a file that give no picture."""
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,ivf"
"""Video containers only: no playlists, no image lists, no stream descriptions."""
UNSEEKABLE = "mpeg"
"""Program streams: after a seek FFmpeg gives some frames the times of their neighbours."""
IMAGES = "images"
"""`VideoIndex.container` of a folder of images."""
LIMITS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """The frames of a file in presentation order.

    `starts` (n,) are seconds from the first frame's start. `timeline` has the container's times; it is None
    if the container has none, as AVI with B-frames: frames are then counted from the beginning. `rate` is the
    mean over the file. `offset` is the first frame's time in the container. Width and height are those of the
    decoded frame. `stream` is the stream's number in the file, one of `streams` video streams. `discarded`
    counts the packets that an edit list cuts off. `images` are the files of a folder of images.
    """

    starts: NDArray[np.float64]
    timeline: Timeline | None
    rate: float
    duration: float
    width: int
    height: int
    container: str
    codec: str = ""
    offset: float = 0.0
    tick_seconds: float = 0.0
    orientation: Orientation = UPRIGHT
    stream: int = 0
    streams: int = 1
    discarded: int = 0
    images: tuple[str, ...] = ()

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
        """Height and width of the frame as it is shown."""
        return (self.width, self.height) if self.orientation.transposed else (self.height, self.width)

    @property
    def seekable(self) -> bool:
        """Whether decoding may begin at a key frame; else every read begins at the first frame."""
        times = self.timeline
        usable = times is not None and not times.restarts and self.container != UNSEEKABLE
        return usable or self.container == IMAGES

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


def inspect(path: Path, rate: float | None = None) -> VideoIndex:
    """Return the index of a file, cached until the file changes; `InputError` if not a complete video.

    `rate` is the number of frames per second of a folder of images; a file has its own times.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):
        fail(path, "there is no such file")
    if path.is_dir():
        return _index_images(path, status.st_mtime_ns, rate)
    if not path.is_file():
        fail(path, "it is no file")
    if status.st_size == 0:
        fail(path, "it is empty")
    return _inspect(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8192)
def _index_images(path: Path, modified: int, rate: float | None) -> VideoIndex:
    names = list_images(path)
    if rate is None or not (np.isfinite(rate) and rate > 0):
        raise InputError(
            f"{path}: a folder of images needs its frames per second: `fps` of the video in the annotations"
        )
    height, width = read_image(path / names[0]).shape[:2]
    read_image(path / names[-1])
    return VideoIndex(
        starts=np.arange(len(names)) / rate,
        timeline=None,
        rate=rate,
        duration=len(names) / rate,
        width=width,
        height=height,
        container=IMAGES,
        images=names,
    )


@lru_cache(maxsize=8192)
def _inspect(path: Path, modified: int, size: int) -> VideoIndex:
    try:
        with open_video(path) as container:
            return _index(path, container, choose_stream(path, container))
    except (av.FFmpegError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        fail(path, "it is no video that can be read; it may be truncated")


def choose_stream(path: Path, container: Any) -> Any:
    """Return the video stream that players show; all readers read this one.

    Cover pictures are no videos. Of several streams the one marked as default counts, then the largest
    picture, then the choice of FFmpeg's `av_find_best_stream`.
    """
    best = container.streams.best("video")

    def rank(stream: Any) -> tuple[bool, int, bool]:
        default = bool(stream.disposition & Disposition.default)
        return default, stream.codec_context.width * stream.codec_context.height, stream is best

    streams = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    if not streams:
        fail(path, "it holds no video stream")
    if not (known := [each for each in streams if each.codec_context is not None]):
        fail(path, "its codec is not known")
    return max(known, key=rank)


def _index(path: Path, container: Any, stream: Any) -> VideoIndex:
    packets, discarded, present = read_packets(container, stream)
    if not packets:
        fail(path, "it holds no frames")
    # Some writers declare one frame more or less; in a truncated file many are missing.
    declared = stream.frames
    if present < declared - max(2, declared // 100):
        fail(path, f"it is truncated: {present} of {declared} frames are there")
    # Joined or recorded transport streams have a few gaps; elsewhere one shows that the file was cut.
    corrupt = sum(packet.corrupt for packet in packets)
    name = str(container.format.name)
    if corrupt > (max(1, len(packets) // 100) if name in RESTARTING else 0):
        fail(path, "it is damaged or truncated")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        fail(path, f"its frames are {width} x {height} pixels")
    first, orientation = _first_frame(path, stream.index)
    seconds = float(stream.time_base or 0)
    found = None
    if seconds > 0 and (name != "avi" or _avi_has_times(packets, stream.codec_context.name)):
        found = timeline(packets, name, seconds)
    if found is not None and first is not None:
        found = found.since(first)
    starts, offset = _starts(path, packets, found, name, stream)
    # A chunk of AVI may last half as long as the pictures do.
    lasting = packets[-1].duration * seconds if name != "avi" else 0.0
    rate, duration = _rate(path, starts, lasting, stream)
    return VideoIndex(
        starts=starts,
        timeline=found,
        rate=rate,
        duration=duration,
        width=width,
        height=height,
        container=name,
        codec=stream.codec_context.name,
        offset=offset,
        tick_seconds=seconds,
        orientation=orientation,
        stream=stream.index,
        streams=len(container.streams.video),
        discarded=discarded,
    )


def _avi_has_times(packets: Sequence[Packet], codec: str) -> bool:
    """Return whether chunk numbers are presentation times: there are no B-frames."""
    reordered = codec in ("h264", "hevc") or any(packet.pts != packet.dts for packet in packets)
    return not reordered


def _starts(
    path: Path, packets: Sequence[Packet], found: Timeline | None, container: str, stream: Any
) -> tuple[NDArray[np.float64], float]:
    """Return the frames' starts in seconds from the first, and the first's time in the container."""
    seconds = float(stream.time_base or 0)
    if found is not None:
        first = int(found.ticks[0])
        return np.asarray((found.ticks - first) * seconds, dtype=np.float64), first * seconds
    if container == "avi" and seconds > 0 and all(packet.dts is not None for packet in packets):
        # Frames in presentation order take the chunks' times in order; an empty chunk repeats a picture.
        chunks = np.unique([packet.dts or 0 for packet in packets])
        if len(chunks) == len(packets):
            return np.asarray((chunks - chunks[0]) * seconds, dtype=np.float64), 0.0
    nominal = float(stream.average_rate or stream.guessed_rate or 0)
    if not (np.isfinite(nominal) and nominal > 0):
        fail(path, f"its frame rate reads as {nominal:g}")
    return np.arange(len(packets)) / nominal, 0.0


def _rate(path: Path, starts: NDArray[np.float64], last: float, stream: Any) -> tuple[float, float]:
    """Return frames per second and duration; `last` is the last frame's own as the container has it."""
    if len(starts) > 1:
        rate = float((len(starts) - 1) / starts[-1])
        last = last if 0 < last * rate < 100 else float(np.median(np.diff(starts)))
    else:
        nominal = float(stream.average_rate or stream.guessed_rate or 0)
        last = last or (1 / nominal if nominal > 0 else 0.0)
        rate = 1 / last if last > 0 else 0.0
    if not (np.isfinite(rate) and rate > 0):
        fail(path, f"its frame rate reads as {rate:g}")
    return rate, float(starts[-1] + last)


def _first_frame(path: Path, number: int) -> tuple[int | None, Orientation]:
    """Return the time of the first frame that can be decoded, and how frames are to be turned."""
    with open_video(path) as container:
        for packets, packet in enumerate(container.demux(container.streams[number])):
            if packets > MAX_UNDECODABLE:
                break
            if packet.size == 0 and packet.pts is not None:
                continue
            try:
                for frame in packet.decode():
                    return frame.pts, orientation_of(frame)
            except av.FFmpegError:
                continue
    fail(path, "none of its first frames can be decoded")


def fail(path: Path, problem: str) -> NoReturn:
    """Raise the one-line error of a file that cannot be used."""
    raise InputError(f"{path}: {problem}; a video file with decodable frames is needed") from None
