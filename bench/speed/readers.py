"""Timing of the readers of video files side by side, in one run, beside plain decoding loops."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bench.io.errors import InputError
from bench.speed import Inputs, Measurement
from bench.speed.windows import long_video

if TYPE_CHECKING:
    import numpy as np

READERS = ("decord", "torchcodec", "pyav")
CLIP_FRAMES = 16
REPEATS = 3
SECONDS = 60
"""Length of the made video; a published file is read up to this."""


def requests(frames: int, rate: float, scale: float) -> dict[str, list[np.ndarray]]:
    """Return the times of each kind of access: vectors that are read by one call each."""
    import numpy as np

    rng = np.random.default_rng(0)
    frames = min(frames, round(SECONDS * rate))
    middles = (np.arange(frames) + 0.5) / rate
    starts = rng.integers(0, max(1, frames - CLIP_FRAMES), round(20 * scale) or 1)
    singles = rng.integers(0, frames, round(20 * scale) or 1)
    return {
        "every frame": [middles],
        "every third frame": [middles[::3]],
        f"clips of {CLIP_FRAMES} at random": [middles[start : start + CLIP_FRAMES] for start in starts],
        "single frames at random": [middles[single : single + 1] for single in singles],
    }


def bare_loops(path: Path, frames: int) -> dict[str, Callable[[], None]]:
    """Return loops that decode the first frames of a file with decord's and with PyAV's own interface."""

    def bare_decord() -> None:
        import decord

        reader = decord.VideoReader(str(path), num_threads=1)
        for _ in range(frames):
            reader.next().asnumpy()

    def bare_pyav() -> None:
        import av

        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for number, frame in enumerate(container.decode(video=0), start=1):
                frame.to_ndarray(format="rgb24")
                if number == frames:
                    break

    return {"bare decord": bare_decord, "bare PyAV": bare_pyav}


def seconds_by_reader(path: Path, wanted: dict[str, list[np.ndarray]]) -> dict[tuple[str, str], float]:
    """Return wall seconds by access and reader, the minimum of repeats that alternate between readers.

    Readers that are not installed, or not proved to read the file, are left out.
    """
    from datasets.video.frames import read_frames
    from datasets.video.reader_choice import READER_VARIABLE

    before = os.environ.get(READER_VARIABLE)
    taken: dict[tuple[str, str], float] = {}
    frames = len(wanted["every frame"][0])
    try:
        for _ in range(REPEATS):
            for reader in READERS:
                os.environ[READER_VARIABLE] = reader
                try:
                    read_frames(path, [0.0])  # opens the file, checks it, starts decord's process
                except InputError:
                    continue
                for access, vectors in wanted.items():
                    started = time.perf_counter()
                    for times in vectors:
                        read_frames(path, times)
                    _keep_least(taken, (access, reader), started)
            for name, loop in bare_loops(path, frames).items():
                started = time.perf_counter()
                loop()
                _keep_least(taken, ("every frame", name), started)
    finally:
        os.environ.pop(READER_VARIABLE)
        if before is not None:
            os.environ[READER_VARIABLE] = before
    return taken


def _keep_least(taken: dict[tuple[str, str], float], key: tuple[str, str], started: float) -> None:
    seconds = time.perf_counter() - started
    taken[key] = min(seconds, taken.get(key, seconds))


def reading(inputs: Inputs) -> list[Measurement]:
    """Time every reader on every kind of access; each ratio is to PyAV's reader on the same access."""
    from datasets.video.frames import probe

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [long_video(Path(folder) / "made.mp4", SECONDS if inputs.scale == 1 else 10)]
        paths += inputs.files("videos", "*") if inputs.scale == 1 else []
        for path in paths:
            info = probe(path)
            wanted = requests(info.frames, info.frames_per_second, inputs.scale)
            taken = seconds_by_reader(path, wanted)
            for (access, reader), seconds in sorted(taken.items()):
                count = sum(map(len, wanted[access]))
                note = f"{count / seconds:.0f} frames/s of {info.width} x {info.height}"
                ratio = taken[access, "pyav"] / seconds
                what = f"{reader} over PyAV, {access}, {path.name}"
                rows.append(Measurement("readers", what, ratio, "x", None, note))
    return rows
