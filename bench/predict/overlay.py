"""Write a copy of the video with the current labels drawn on the frames, without sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from bench.io.errors import InputError
from bench.io.writing import atomic_path
from bench.predict.segments import Segment, select_for_display
from bench.predict.timeline import colour_of, plain
from bench.report.figures.fonts import draw_with_fonts
from bench.report.figures.style import STYLE
from datasets.video.image_folder import image_frames
from datasets.video.index import VideoIndex, inspect
from datasets.video.pyav_reader import pyav_frames

Picture = NDArray[np.uint8]
LINES = 3
"""Maximum number of labels shown at one time."""
LEAST_HEIGHT = 240
"""A video with less height is enlarged by an integer factor, so that its labels can be read."""
TICKS = 90_000
ENCODERS = ("libx264", "mpeg4")


def write_annotated_video(
    source: Path,
    target: Path,
    segments: Sequence[Segment],
    progress: Callable[[int, int], None] = lambda done, total: None,
    rate: float | None = None,
) -> None:
    """Write the video at ``source`` with labels to ``target``; every frame keeps its timestamp.

    ``rate`` is the number of frames per second of a folder of images.
    """
    index = inspect(source, rate)
    with atomic_path(target) as draft, av.open(str(draft), "w", format="mp4") as container:
        stream: Any = None
        for number, frame in enumerate(_labelled(source, index, segments)):
            if stream is None:
                stream = _stream(container, frame, index.rate)
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = round(index.starts[number] * TICKS), Fraction(1, TICKS)
            container.mux(stream.encode(picture))
            progress(number + 1, len(index.starts))
        container.mux(stream.encode(None))


def _stream(container: Any, frame: Picture, rate: float) -> Any:
    """Return the output stream, with the first encoder that this PyAV has."""
    for name in ENCODERS:
        try:
            stream = container.add_stream(name, rate=Fraction(rate).limit_denominator(1001))
        except (ValueError, av.FFmpegError):  # an unknown codec is a ValueError
            continue
        stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS) if name == "libx264" else Fraction(1, 1000)
        return stream
    raise InputError(f"--mp4: this PyAV has no encoder, allowed are {', '.join(ENCODERS)}")


def _labelled(source: Path, index: VideoIndex, segments: Sequence[Segment]) -> Iterator[Picture]:
    """Yield the frames (height, width, 3), with even sides and a strip of labels over the bottom."""
    shown = select_for_display(segments)
    labels = sorted({each.label for each in shown})
    strips: dict[tuple[Segment, ...], Picture] = {}
    everything = np.arange(len(index.starts))
    if index.images:
        frames = image_frames(source, index.images, everything)
    else:
        frames = pyav_frames(source, index, everything)
    for start, frame in zip(index.starts, frames, strict=True):
        large = _enlarged(frame)
        now = tuple(active(shown, float(start)))
        if now:
            if now not in strips:
                strips[now] = draw_strip(now, [labels.index(each.label) for each in now], large.shape)
            strip = strips[now]
            large[-len(strip) :] = strip
        yield large


def active(shown: Sequence[Segment], moment: float) -> list[Segment]:
    """Return the segments at a time: the best one of each label, at most ``LINES``."""
    found: dict[str, Segment] = {}
    for each in shown:
        if each.start <= moment < each.end:
            found.setdefault(each.label, each)
    return list(found.values())[:LINES]


def _enlarged(frame: Picture) -> Picture:
    """Return a copy at least ``LEAST_HEIGHT`` high with even sides, as the encoders require."""
    times = -(-LEAST_HEIGHT // frame.shape[0])
    large = frame.repeat(times, axis=0).repeat(times, axis=1)
    odd = [(0, side % 2) for side in large.shape[:2]]
    return np.pad(large, (*odd, (0, 0)), mode="edge")


def draw_strip(now: Sequence[Segment], numbers: Sequence[int], shape: Sequence[int]) -> Picture:
    """Return (h, width, 3): one line per segment with its label's colour, the score and the label."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    line = max(16, shape[0] // 16)
    height, width = min(line * len(now), shape[0]), shape[1]
    with matplotlib.rc_context({**STYLE, "figure.constrained_layout.use": False}):
        figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="black")
        agg = FigureCanvasAgg(figure)
        for place, (each, number) in enumerate(zip(now, numbers, strict=True)):
            bottom = 1 - (place + 1) / len(now)
            box = Rectangle(
                (0, bottom), 0.6 * line / width, 1 / len(now), color=colour_of(number), linewidth=0
            )
            figure.add_artist(box)
            figure.text(
                line / width,
                bottom + 0.5 / len(now),
                f"{each.score:.2f}  {plain(each.label)}",
                color="white",
                va="center_baseline",
                fontsize=0.5 * line,
            )
        draw_with_fonts(figure, agg.draw)
        drawn = np.asarray(agg.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    strip = np.zeros((height, width, 3), dtype=np.uint8)
    strip[: drawn.shape[0], : drawn.shape[1]] = drawn[:height, :width]
    return strip
