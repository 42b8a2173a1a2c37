"""Small video files in many encodings, each frame spelling its number: codecs, containers, GOPs, rates."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from movies import MILLISECOND, numbered, spelled
from numpy.typing import NDArray

os.environ.setdefault("SVT_LOG", "0")  # the AV1 encoder prints its settings
FRAMES = 240
RATE = 25
X265 = "log-level=none:pools=1:frame-threads=1"


TEXTURE = np.random.default_rng(0).integers(40, 220, (512, 512, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)


def moving_picture(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """A picture whose upper half spells its number and whose lower half is a moving texture.

    Without motion, encoders predict little from other frames, and few reader's errors show.
    """
    picture = numbered(index, width, height)
    left, half = 3 * index, height // 2
    picture[half:] = TEXTURE[index : index + height - half, left : left + width]
    return picture


def number_of(picture: NDArray[np.uint8]) -> int:
    """The number that the upper half of a picture spells."""
    return spelled(picture[: picture.shape[0] // 2])


@dataclass(frozen=True)
class Encoding:
    """How a file is encoded: codec, container, options of both, and times in milliseconds if not regular."""

    codec: str
    suffix: str
    options: dict[str, str] = field(default_factory=dict)
    movie: dict[str, str] = field(default_factory=dict)
    milliseconds: Sequence[int] | None = None
    pixels: str = "yuv420p"
    size: tuple[int, int] = (64, 64)

    @property
    def starts(self) -> NDArray[np.float64]:
        """Seconds of the frames from the first one's start."""
        times = np.arange(FRAMES) / RATE if self.milliseconds is None else np.array(self.milliseconds) / 1000
        return np.asarray(times - times[0])

    def write(self, path: Path, frames: int = FRAMES, first: int = 0) -> Path:
        """Write numbered frames, from `first` on, to a file with the encoding's suffix; return its path."""
        path = path.with_suffix(f".{self.suffix}")
        with av.open(str(path), "w", options=self.movie) as container:
            stream: Any = container.add_stream(
                self.codec, rate=RATE, options={"threads": "1", **self.options}
            )
            stream.width, stream.height, stream.pix_fmt = *self.size, self.pixels
            if self.milliseconds is not None:
                stream.time_base = stream.codec_context.time_base = MILLISECOND
            for index in range(frames):
                frame = av.VideoFrame.from_ndarray(moving_picture(first + index, *self.size), format="rgb24")
                if self.milliseconds is None:
                    frame.pts, frame.time_base = index, Fraction(1, RATE)
                else:
                    frame.pts, frame.time_base = self.milliseconds[index], MILLISECOND
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path


def x264(suffix: str, more: str = "", **movie: str) -> Encoding:
    return Encoding("libx264", suffix, {"x264-params": more} if more else {}, movie)


def x265(suffix: str, more: str = "", **movie: str) -> Encoding:
    return Encoding("libx265", suffix, {"x265-params": ":".join(filter(None, (X265, more)))}, movie)


VARIABLE = [40 * index + (17 * index * index) % 31 for index in range(FRAMES)]
"""Times whose gaps are between 10 and 70 ms."""
HALTING = [40 * (index + 100 * (index // 70)) for index in range(FRAMES)]
"""Times with a pause of 4 s after every 70th frame, which is no key frame."""
BLURAY = "keyint=24:bframes=3:open-gop=1:b-pyramid=strict:slices=4:ref=4"
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}

ENCODINGS: dict[str, Encoding] = {
    "h264 mp4": x264("mp4"),
    "h264 mp4 short gop": x264("mp4", "keyint=12:min-keyint=12"),
    "h264 mp4 gop of 3": x264("mp4", "keyint=3:min-keyint=3:bframes=3:scenecut=0"),
    "h264 mp4 only key frames": x264("mp4", "keyint=1"),
    "h264 mp4 no b-frames": x264("mp4", "bframes=0:keyint=50"),
    "h264 mp4 open gop": x264("mp4", "open-gop=1:keyint=24:bframes=3"),
    "h264 mkv open gop": x264("mkv", "open-gop=1:keyint=24:bframes=3"),
    "h264 mkv": x264("mkv", "keyint=48:bframes=5"),
    "h264 mkv blu-ray": x264("mkv", BLURAY),
    "h264 mp4 intra refresh": x264("mp4", "intra-refresh=1:keyint=40"),
    "h264 mkv intra refresh": x264("mkv", "intra-refresh=1:keyint=40"),
    "h264 fragments": x264("mp4", "keyint=24", **FRAGMENTS),
    "h264 fragments open gop": x264("mp4", "keyint=24:open-gop=1", **FRAGMENTS),
    "h264 short fragments": x264("mp4", "keyint=24", movflags="empty_moov", frag_duration="200000"),
    "h264 mov": x264("mov", "keyint=30"),
    "h264 ts": x264("ts", "keyint=24"),
    "h264 flv": x264("flv", "keyint=24"),
    "h264 avi": x264("avi", "keyint=24"),
    "h264 mp4 variable rate": Encoding("libx264", "mp4", {"g": "40"}, milliseconds=VARIABLE),
    "h264 mkv variable rate": Encoding("libx264", "mkv", {"g": "40"}, milliseconds=VARIABLE),
    "h264 mkv with pauses": Encoding("libx264", "mkv", {"g": "40"}, milliseconds=HALTING),
    "h264 mp4 with pauses": Encoding("libx264", "mp4", {"g": "40"}, milliseconds=HALTING),
    "h264 ts with pauses": Encoding("libx264", "ts", {"g": "40"}, milliseconds=HALTING),
    "h265 mp4": x265("mp4"),
    "h265 mkv": x265("mkv", "keyint=48"),
    "h265 mkv closed gop": x265("mkv", "keyint=48:open-gop=0"),
    "h265 mp4 closed gop": x265("mp4", "keyint=48:open-gop=0"),
    "h265 mp4 open gop": x265("mp4", "keyint=24:min-keyint=24"),
    "h265 fragments open gop": x265("mp4", "keyint=24:min-keyint=24", **FRAGMENTS),
    "h265 intra refresh": x265("mkv", "intra-refresh=1:keyint=40:bframes=0"),
    "h265 ts": x265("ts", "keyint=24"),
    "mpeg4 mp4 b-frames": Encoding("mpeg4", "mp4", {"bf": "2", "g": "24", "qscale": "2"}),
    "mpeg4 mkv b-frames": Encoding("mpeg4", "mkv", {"bf": "2", "g": "24"}),
    "mpeg4 mkv": Encoding("mpeg4", "mkv", {"g": "24"}),
    "mpeg4 avi": Encoding("mpeg4", "avi", {"g": "24"}),
    "mpeg4 avi b-frames": Encoding("mpeg4", "avi", {"bf": "2", "g": "24"}),
    "mpeg2 mkv b-frames": Encoding("mpeg2video", "mkv", {"bf": "2", "g": "12"}),
    "mpeg2 mp4 b-frames": Encoding("mpeg2video", "mp4", {"bf": "2", "g": "12"}),
    "mpeg2 ts": Encoding("mpeg2video", "ts", {"bf": "2", "g": "12"}),
    "mpeg2 program stream": Encoding("mpeg2video", "mpg", {"bf": "2", "g": "12"}),
    "mpeg2 closed gop": Encoding(
        "mpeg2video", "mkv", {"bf": "2", "g": "12", "flags": "+cgop", "sc_threshold": "1000000000"}
    ),
    "vp8 webm": Encoding("libvpx", "webm", {"g": "40"}),
    "vp8 hidden frames": Encoding("libvpx", "webm", {"g": "60", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp9 webm": Encoding("libvpx-vp9", "webm", {"g": "40", "cpu-used": "8", "deadline": "realtime"}),
    "vp9 hidden frames": Encoding(
        "libvpx-vp9", "mkv", {"g": "60", "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "5"}
    ),
    "av1 mkv": Encoding("libsvtav1", "mkv", {"g": "40", "preset": "12"}),
    "av1 mp4": Encoding("libsvtav1", "mp4", {"g": "40", "preset": "12"}),
    "mjpeg avi": Encoding("mjpeg", "avi", pixels="yuvj420p"),
    "prores mov": Encoding("prores_ks", "mov", pixels="yuv422p10le"),
    "ffv1 mkv": Encoding("ffv1", "mkv"),
    "wmv asf": Encoding("wmv2", "wmv", {"g": "24"}),
    "flv1 flv": Encoding("flv", "flv", {"g": "24"}),
    "mpeg1 mpg": Encoding("mpeg1video", "mpg", {"bf": "2", "g": "12"}),
}
