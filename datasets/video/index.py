"""The frame index of a video file, made by one pass through the demuxer, without decoding.

Frames are selected by the demuxer's presentation times: frame counts and times of decoders are trusted only
if they agree with these.
"""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from bench.io.errors import InputError
from datasets.video.container import UPRIGHT, Orientation, choose_stream, fail, open_video, orientation_of
from datasets.video.image_folder import list_images, read_image
from datasets.video.timestamps import RESTARTING, Packet, Packets, Timeline, read_packets, timeline

MAX_PIXELS = 2**27
"""Largest frame (16384 x 8192): a larger one indicates a damaged header."""

MAX_UNDECODABLE = 256
"""Most packets at the beginning of a file that give no picture."""
UNSEEKABLE = "mpeg"
"""Program streams: after a seek FFmpeg gives some frames the times of their neighbours."""
COUNTED = ("mov", "avi")
"""Formats whose headers have the number of frames."""
REORDERING = ("h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video", "vc1")
CLOCK = re.compile(r"(\d+):(\d+):(\d+\.?\d*)")
IMAGES = "images"
"""`VideoIndex.container` of a folder of images."""


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """The frames of a file in presentation order.

    `starts` (n,) are seconds from the first frame's start. `timeline` has the container's times; it is None
    if the container has none, as AVI with B-frames: frames are then counted from the beginning. `rate` is the
    mean over the file. `offset` is the first frame's time in the container. Width and height are those of the
    decoded frame. `stream` is the stream's number in the file, one of `streams` video streams. `discarded`
    counts the packets that an edit list cuts off; `without` is that of `Packets`. `images` are the files of a
    folder of images.
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
    without: frozenset[int] | None = frozenset()
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


def _index(path: Path, container: Any, stream: Any) -> VideoIndex:
    found_packets = read_packets(container, stream)
    packets = found_packets.shown
    if not packets:
        fail(path, "it holds no frames")
    _check_complete(path, container, stream, found_packets)
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
    if seconds > 0 and not _times_are_those_of_decoding(path, name, stream, packets):
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
        discarded=found_packets.discarded,
        without=found_packets.without,
    )


def _check_complete(path: Path, container: Any, stream: Any, found: Packets) -> None:
    """Raise `InputError` if the container declares many more frames, or seconds, than there are.

    Some writers declare one frame more or less, and an edit list takes whole groups of pictures away: the
    declared number of frames counts only if the last frame's time falls short as well.
    """
    tick, name = float(stream.time_base or 0), str(container.format.name)
    present, times = found.present, [packet.pts for packet in found.shown if packet.pts is not None]
    end = (max(times) + found.shown[-1].duration) * tick if times else 0.0
    tag = stream.metadata.get("DURATION", "")
    if "matroska" in name and (clock := CLOCK.fullmatch(tag)):
        declared = int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3])
    elif stream.duration and "matroska" not in name:
        declared = ((stream.start_time or 0) + stream.duration) * tick
    else:
        declared = 0.0
    missing = declared - end if times else 0.0
    late = max(2 * (declared / max(present, 1)), 0.01 * declared)
    frames = stream.frames if any(each in name for each in COUNTED) else 0
    few = present < frames - max(2, frames // 100)
    if few and (missing > late or name == "avi"):
        fail(path, f"it is truncated: {present} of {frames} frames are there")
    if "matroska" in name and missing > max(late, 1.0):
        fail(path, f"it is truncated: {end:.1f} of {declared:.1f} s are there")


def _times_are_those_of_decoding(path: Path, container: str, stream: Any, packets: Sequence[Packet]) -> bool:
    """Return whether packets have no presentation times of their own, but frames are reordered.

    AVI has chunk numbers only. Elsewhere it is a fault of files that were made from bare streams: decoding
    then gives the first frames in another order than that of their times.
    """
    codec = stream.codec_context.name
    if container == "avi":
        return codec in ("h264", "hevc") or any(packet.pts != packet.dts for packet in packets)
    if codec not in REORDERING or any(packet.pts != packet.dts for packet in packets):
        return False
    return not _first_frames_ascend(path, stream.index)


def _first_frames_ascend(path: Path, number: int) -> bool:
    """Return whether the first decoded frames have ascending times."""
    times: list[int] = []
    with open_video(path) as container:
        for packets, packet in enumerate(container.demux(container.streams[number])):
            if packets > MAX_UNDECODABLE or packet.size == 0:
                break
            with contextlib.suppress(av.FFmpegError):
                times += [frame.pts for frame in packet.decode() if frame.pts is not None]
    return times == sorted(times)


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
