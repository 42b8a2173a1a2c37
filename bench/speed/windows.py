"""Timing of reading windows at random positions of a long video, against sequential decoding."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.speed import Inputs, Measurement

if TYPE_CHECKING:
    from bench.data.clips import FileClips

SIZE = 224
CLIP_FRAMES = 16
WINDOW_CLIPS = 48
RATE = 30
PATTERN_SECONDS = 10
KEY_FRAMES = 250
"""x264's default key-frame interval: frames between a key frame and a window's start are decoded in vain."""
WINDOWS = 4
REPEATS = 3


def long_video(path: Path, seconds: int) -> Path:
    """Write a video of moving noise, ten seconds repeated to a length of ``seconds``; return its path."""
    import av
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 256, (2 * SIZE, 2 * SIZE, 3), dtype=np.uint8) // 4 + 90
    made: list[Any] = []
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "g": str(KEY_FRAMES), "threads": "1"}
        stream: Any = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for index in range(PATTERN_SECONDS * RATE):
            row, column = index % SIZE, index * 2 % SIZE
            picture = np.ascontiguousarray(noise[row : row + SIZE, column : column + SIZE])
            made += stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        made += stream.encode()
        length = round(PATTERN_SECONDS / made[0].time_base)
        for repeat in range(seconds // PATTERN_SECONDS):
            for packet in made:
                copy: Any = av.Packet(bytes(packet))
                copy.stream, copy.time_base = stream, packet.time_base
                copy.pts, copy.dts = packet.pts + repeat * length, packet.dts + repeat * length
                copy.is_keyframe, copy.duration = packet.is_keyframe, packet.duration
                container.mux(copy)
    return path


def seconds_a_frame(clips: FileClips, starts: Sequence[int], length: int) -> float:
    """Return the wall time per frame of windows of ``length`` clips, prefetched as in training."""
    started = time.perf_counter()
    wanted = [(clips, start, start + length) for start in starts]
    for number, (_, first, last) in enumerate(wanted):
        clips.loader.expect(wanted[number : number + 1 + clips.loader.workers])
        clips.part(first, last)
    return (time.perf_counter() - started) / (len(starts) * length * CLIP_FRAMES)


def seconds_a_frame_of_decord(path: Path, frames: int, size: int = -1) -> float:
    """Return the wall time per frame of decord's sequential decoding, with resizing if ``size`` is given."""
    import decord

    started = time.perf_counter()
    reader = decord.VideoReader(str(path), num_threads=1, width=size, height=size)
    for _ in range(frames):
        reader.next().asnumpy()
    return (time.perf_counter() - started) / frames


def windowed(inputs: Inputs) -> list[Measurement]:
    """Time windows at random positions of a long video, and of published files, against decord.

    decord decodes sequentially in one thread. Files of another size are resized, by decord with its own
    interpolation; the note then has the ratio to decoding without resizing.
    """
    import numpy as np
    import torch

    from bench.data.clips import FileClips
    from bench.data.frame_loader import FrameLoader
    from bench.data.time_grid import TimeGrid
    from datasets.sampling import spread_times
    from datasets.video.frames import probe

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [long_video(Path(folder) / "long.mp4", 180 if inputs.scale == 1 else 2 * PATTERN_SECONDS)]
        paths += inputs.files("videos", "*") if inputs.scale == 1 else []
        for path in paths:
            info = probe(path)
            count = info.frames // CLIP_FRAMES
            # A short file is a single window that is read repeatedly: its frame size determines the cost.
            length = min(WINDOW_CLIPS, count) if inputs.scale == 1 else 2
            starts = rng.integers(0, count - length + 1, WINDOWS if inputs.scale == 1 else 2).tolist()
            times = spread_times(info.duration, info.frames).times[: count * CLIP_FRAMES]
            grid = TimeGrid(info.frames_per_second, CLIP_FRAMES, 1)
            taken: dict[str, list[float]] = {}
            loaders = [FrameLoader(0, workers) for workers in (1, 2)]
            for _ in range(REPEATS if inputs.scale == 1 else 1):
                for loader in loaders:
                    clips = FileClips(path, times, CLIP_FRAMES, SIZE, count, grid, loader)
                    found = seconds_a_frame(clips, starts, length)
                    taken.setdefault(f"{loader.workers}", []).append(found)
                taken.setdefault("alone", []).append(seconds_a_frame_of_decord(path, info.frames))
                taken.setdefault("resized", []).append(seconds_a_frame_of_decord(path, info.frames, SIZE))
            for loader in loaders:
                loader.close()
            least = {way: min(values) for way, values in taken.items()}
            same = (info.width, info.height) == (SIZE, SIZE)
            for workers in ("1", "2"):
                note = f"{1 / least[workers]:.0f} frames/s of {info.width} x {info.height}"
                if not same:
                    note += f" to {SIZE}, {least['alone'] / least[workers]:.2f} of decoding alone"
                ratio = least["alone" if same else "resized"] / least[workers]
                what = f"over decord's, {workers} at once, {path.name}"
                rows.append(Measurement("windows", what, ratio, "x", 0.8, note))
    return rows
