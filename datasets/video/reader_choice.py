"""Choose the reader of a file: the first that is proved, on this file, to give the pictures of their times.

Readers that seek by themselves return other pictures than asked for on some ordinary files, without an error.
So a file's index must give no reason for that, and some sought frames must be those that PyAV decodes with
the same presentation times. The result is kept for each file in the cache folder.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from bench.io.errors import InputError, StuckDecoderError
from bench.io.reading import parse_json, read_bytes
from bench.io.writing import write_atomically
from datasets.video import decord_reader, torchcodec_reader
from datasets.video.index import IMAGES, VideoIndex, inspect
from datasets.video.pyav_reader import pyav_frames

VERSION = 3
"""Counts the changes of the check; results of another version are not used."""
GROUPS = 6
"""Groups of pictures in which frames are compared; all of them if a file has no more."""
SPAN = 32
"""Frames of a group among which some are chosen; later ones would only cost time."""
MAX_LATE = 1000
"""Most frames that are decoded to compare one late in the longest group."""
COMPARED_PIXELS = 192
"""Pixels of the longer side that are compared, at least."""
NEAR = 3
"""A frame is compared with as many neighbours before and after it."""
MAX_DIFFERENCE = 2.0
"""Largest mean difference, in grey levels, between two readers' conversions of one picture to RGB."""
TIE = 0.02
"""Neighbours whose difference is smaller by less than this, in grey levels, do not tell the frames apart."""
MAX_CACHE_BYTES = 4096

READERS = ("auto", "decord", "pyav", "torchcodec")
READER_VARIABLE = "TALBENCH_READER"
"""Environment variable with the reader to use, one of `READERS`; a process passes it to its children."""

Frames = Iterator[NDArray[np.uint8]]
"""Chunks of frames, (n, height, width, 3)."""


@dataclass(frozen=True)
class Reader:
    """A reader that seeks by itself: its name with version, its weaknesses, and its reading of frames."""

    name: str
    seeks_wrongly: Callable[[VideoIndex], str | None]
    frames: Callable[[Path, VideoIndex, NDArray[np.int64], int], Frames]
    error: type[Exception]


def wanted_reader() -> str:
    """Return the reader that the user chose, `auto` by default; `InputError` if unknown or not installed."""
    name = os.environ.get(READER_VARIABLE) or "auto"
    if name not in READERS:
        raise InputError(f"--reader: got {name[:40]!r}, allowed are {', '.join(READERS)}")
    if name == "decord" and not decord_reader.decord_installed():
        raise InputError(
            "--reader decord: decord is not installed; pip install decord, or use another reader"
        )
    if name == "torchcodec" and not torchcodec_reader.torchcodec_installed():
        raise InputError(
            "--reader torchcodec: torchcodec is not installed or finds no FFmpeg libraries; "
            "install both, or use another reader"
        )
    return name


def use_reader(name: str) -> None:
    """Set the reader of this process and its children; raise `InputError` if it cannot be used."""
    os.environ[READER_VARIABLE] = name
    wanted_reader()


def fast_readers(wanted: str) -> tuple[Reader, ...]:
    """Return the readers to try before PyAV, in order, for a `--reader` of auto, decord, pyav, torchcodec."""
    found = []
    if wanted in ("auto", "decord") and decord_reader.decord_installed():
        name = f"decord {decord_reader.decord_version()}"
        found.append(
            Reader(name, decord_reader.seeks_wrongly, decord_reader.decord_frames, decord_reader.DecordError)
        )
    if wanted in ("auto", "torchcodec") and torchcodec_reader.torchcodec_installed():
        name = f"torchcodec {torchcodec_reader.torchcodec_version()}"
        own = torchcodec_reader
        found.append(Reader(name, own.seeks_wrongly, own.torchcodec_frames, own.TorchcodecError))
    return tuple(found)


def choose(path: Path, index: VideoIndex, wanted: str, cache: Path | None) -> tuple[Reader | None, str]:
    """Return the reader of a file, None for PyAV, and why the others are not used (empty if none is)."""
    if index.container == IMAGES:
        return None, ""
    problems = []
    for reader in fast_readers(wanted):
        problem = reader.seeks_wrongly(index) or _checked(path, reader, cache)
        if problem is None:
            return reader, ""
        problems.append(f"{reader.name}: {problem}")
    return None, "; ".join(problems)


def _checked(path: Path, reader: Reader, cache: Path | None) -> str | None:
    status = path.stat()
    facts = [str(path.absolute()), status.st_size, status.st_mtime_ns, reader.name, VERSION]
    return _check_once(path, json.dumps(facts), reader, cache)


@lru_cache(maxsize=65536)
def _check_once(path: Path, identity: str, reader: Reader, cache: Path | None) -> str | None:
    """Return the problem of a reader with a file, from the cache or by a check that is kept there."""
    kept = None
    if cache is not None:
        kept = cache / f"{hashlib.sha256(identity.encode(errors='replace')).hexdigest()[:32]}.json"
        known = _read(kept)
        if known is not None:
            return known or None
    problem = check(path, inspect(path), reader)
    if kept is not None:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(kept, json.dumps({"reader": reader.name, "problem": problem or ""}).encode())
        except OSError:
            pass  # a cache that cannot be written costs time only
    return problem


def _read(kept: Path) -> str | None:
    """Return a kept problem, empty if the check passed; None if nothing usable is kept."""
    try:
        content: Any = parse_json(read_bytes(kept, MAX_CACHE_BYTES), kept.name)
    except InputError:
        return None
    problem = content.get("problem") if isinstance(content, dict) else None
    return problem if isinstance(problem, str) else None


def check(path: Path, index: VideoIndex, reader: Reader) -> str | None:
    """Return what a reader does wrong when it seeks in a file, or None.

    Frames in some groups of pictures are asked for one by one, going back and forth. Each must be nearer to
    PyAV's frame of this time than to those of its neighbours. Frames that are alike tell nothing, but then
    the wrong one shows the same.
    """
    wanted = _sample(index)
    around = np.unique(np.clip(wanted[:, None] + np.arange(-NEAR, NEAR + 1), 0, len(index.starts) - 1))
    try:
        pyav = map(_thinned, pyav_frames(path, index, around))
        frames = dict(zip(around.tolist(), pyav, strict=True))
    except (InputError, av.FFmpegError):
        return "PyAV cannot decode the frames to compare with"
    for number in wanted.tolist():
        try:
            [[got]] = reader.frames(path, index, np.array([number]), 1)
        except (reader.error, StuckDecoderError) as error:
            return str(error).removeprefix(f"{path}: ")
        if got.shape[:2] != index.shown:
            return f"its pictures have another size than {index.shown[1]} x {index.shown[0]}"
        near = [other for other in range(number - NEAR, number + NEAR + 1) if other in frames]
        distances = {other: _difference(_thinned(got), frames[other]) for other in near}
        if distances[number] > min(distances.values()) + TIE:
            return f"it gives another picture than frame {number} after a seek"
        if distances[number] > MAX_DIFFERENCE:
            return f"its picture of frame {number} is {distances[number]:.1f} grey levels from PyAV's"
    return None


def _thinned(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a copy with every nth pixel of a frame: whole frames of a large video would take gigabytes."""
    step = max(1, max(frame.shape) // COMPARED_PIXELS)
    return frame[::step, ::step].copy()


def _difference(first: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the mean difference of two pictures in grey levels; infinite if their sizes differ."""
    if first.shape != other.shape:
        return float("inf")  # the size changes in the file
    return float(np.abs(first.astype(np.int16) - other).mean())


def _sample(index: VideoIndex) -> NDArray[np.int64]:
    """Return the indices to compare, in an order that seeks back and forth: the same for the same file."""
    assert index.timeline is not None
    keys, rng = index.timeline.keys, np.random.default_rng(len(index.starts))
    following = np.append(keys[1:], len(index.starts))
    # The second and the last group of pictures, and some others.
    first, last = min(1, len(keys) - 1), len(keys) - 1
    groups = np.unique([first, last, *rng.permutation(len(keys))[: GROUPS - 2]])
    lengths = np.minimum(following[groups] - keys[groups], SPAN)
    some, others = keys[groups] + rng.integers(0, lengths, (2, len(groups)))
    # A frame before a key frame may follow it in decoding order.
    ends = keys[groups] + lengths - 1
    # Errors of counting add up until the end of a group, and the longest has the most.
    longest = int(np.argmax(following - keys))
    late = [min(int(following[longest]) - 1, int(keys[longest]) + MAX_LATE)]
    return np.concatenate([some[::-1], ends, others[::-1], late, rng.permutation(keys[groups])])
