"""Read frames by index with PyAV: if decord is not installed, and for files that decord reads wrongly."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from datasets.video.index import VideoIndex, fail, open_video

SEEK_FRAMES = 48
"""A gap of more frames than this is skipped by a seek; shorter ones are decoded."""


class _SeekOvershootError(Exception):
    """A seek went past the needed frame."""


def pyav_frames(
    path: Path, index: VideoIndex, needed: NDArray[np.int64], num_threads: int = 1
) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames (height, width, 3) of ascending indices, rotated upright.

    A frame that cannot be decoded is replaced by the previous one, for at most 1% of the frames (one is
    always allowed: encoders drop the last); otherwise `InputError` is raised.
    """
    lost, previous = 0, None
    for wanted, found in _nearest(path, index, needed, num_threads):
        if found is None:
            lost += 1
        frame = previous if found is None else found
        if frame is None or lost > max(1, len(needed) // 100):
            fail(path, f"frame {wanted} of {len(index.starts)} cannot be decoded")
        previous = frame
        yield frame


def _nearest(
    path: Path, index: VideoIndex, needed: NDArray[np.int64], num_threads: int
) -> Iterator[tuple[int, NDArray[np.uint8] | None]]:
    """Yield each needed index with its frame, or with None if decoding does not return it."""
    done = 0
    for seek in (index.ticks is not None, False):
        try:
            for answer in _pass(path, index, needed[done:].tolist(), num_threads, seek):
                yield answer
                done += 1
            return
        except _SeekOvershootError:
            continue  # as in MPEG-TS: start again from the beginning


def _pass(
    path: Path, index: VideoIndex, needed: list[int], num_threads: int, seek: bool
) -> Iterator[tuple[int, NDArray[np.uint8] | None]]:
    position, landed = -1, False
    waiting = list(reversed(needed))
    with open_video(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = num_threads
        while waiting:
            if landed := seek and waiting[-1] - position > SEEK_FRAMES:
                assert index.ticks is not None
                container.seek(int(index.ticks[waiting[-1]]), stream=stream)
            for number, frame in _decoded(container, stream, index, position):
                if landed and number > waiting[-1]:
                    raise _SeekOvershootError
                position, landed = number, False
                while waiting and number > waiting[-1]:
                    yield waiting.pop(), None
                if waiting and number == waiting[-1]:
                    picture = frame.to_ndarray(format="rgb24")
                    yield waiting.pop(), np.asarray(np.rot90(picture, index.rotation // 90), dtype=np.uint8)
                    # Only here: between a key frame and the target nothing can be skipped.
                    if waiting and seek and waiting[-1] - position > SEEK_FRAMES:
                        break
                if not waiting:
                    return
            else:
                if landed:
                    raise _SeekOvershootError
                while waiting:
                    yield waiting.pop(), None


def _decoded(container: Any, stream: Any, index: VideoIndex, position: int) -> Iterator[tuple[int, Any]]:
    """Yield frames in presentation order with their indices: by time, else counted from `position`."""
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        for frame in frames:
            if index.ticks is None or frame.pts is None:
                position += 1
            else:
                found = int(np.searchsorted(index.ticks, frame.pts))
                if found == len(index.ticks) or index.ticks[found] != frame.pts:
                    continue  # removed by the container's edit list
                position = found
            yield position, frame


def count_decodable(path: Path) -> int:
    """Return how many frames of a file can be decoded from its beginning to its end."""
    with open_video(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        count = 0
        for packet in container.demux(stream):
            try:
                count += len(packet.decode())
            except av.FFmpegError:
                continue
        return count
