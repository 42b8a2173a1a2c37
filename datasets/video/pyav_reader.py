"""Read frames by index with PyAV: the reader of all files, except where another is proved to read them.

A decoded frame is identified by its presentation time. A seek counts only if decoding really begins at a key
frame that is no later than the wanted frame, and gives this key frame first: intra refresh and open GOPs
otherwise give pictures that were predicted from missing ones. Else the file is decoded from its beginning.
"""

import contextlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from datasets.video.container import fail, open_video
from datasets.video.index import VideoIndex
from datasets.video.timestamps import REORDERED_FRAMES, Clock

SEEK_FRAMES = 48
"""A gap of more frames than this is skipped by a seek; shorter ones are decoded."""
SEEK_KEYS = (1, 4)
"""Key frames before the wanted frame that are tried in turn: containers may land later than asked."""
REORDERED_MPEG4 = 4
"""Most frames by which MPEG-4 and its relatives reorder; `REORDERED_FRAMES` is for H.264 and H.265."""
FROZEN_SECONDS = 1.0
"""Longest time for which an earlier frame replaces those that cannot be decoded."""

Decoded = tuple[int, Any]
"""Index and frame; -1 and None before the first."""


def pyav_frames(
    path: Path, index: VideoIndex, needed: NDArray[np.int64], num_threads: int = 1
) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames (height, width, 3) of ascending indices, as they are shown.

    A frame that cannot be decoded is replaced by the last decodable one, as players do, if that is at most a
    second earlier and at most a tenth of the frames is lost; otherwise `InputError` is raised.
    """
    near = max(1, round(index.rate * FROZEN_SECONDS))
    lost, reformatter = 0, VideoReformatter()  # one for all frames: making one takes as long as converting
    with contextlib.closing(_Decoder(path, index, num_threads)) as decoder:
        for wanted in needed.tolist():
            number, frame = decoder.last_until(wanted)
            lost += number != wanted
            if frame is None or wanted - number > near or lost > max(near, len(needed) // 10):
                fail(path, f"frame {wanted} of {len(index.starts)} cannot be decoded")
            picture: Any = reformatter.reformat(frame, format="rgb24").to_ndarray()
            yield np.ascontiguousarray(index.orientation.apply(picture))


class _Decoder:
    """Decodes one file forward, and seeks over gaps."""

    def __init__(self, path: Path, index: VideoIndex, num_threads: int) -> None:
        self.path, self.index, self.num_threads = path, index, num_threads
        self.container: Any = None
        self.seekable = index.seekable
        self.restart()

    def close(self) -> None:
        if self.container is not None:
            self.container.close()

    def restart(self) -> None:
        """Decode from the beginning."""
        self.close()
        self.container = open_video(self.path)
        self.stream = self.container.streams[self.index.stream]
        self.stream.codec_context.thread_count = self.num_threads
        self.failed: list[int] = []
        self.frames: Iterator[Decoded] = self._numbered(self._decoded(self.container.demux(self.stream)))
        self.before: Decoded = (-1, None)
        self.here: Decoded = (-1, None)

    def last_until(self, wanted: int) -> Decoded:
        """Return the last decodable frame up to an index that is not below the previous call's."""
        key = self._key_before(wanted)
        if wanted - self.here[0] > SEEK_FRAMES and key > max(0, self.here[0]) and not self._seek(wanted):
            self.seekable = False  # or every gap would begin anew
            self.restart()
        while self.here[0] < wanted:
            self.before, self.here = self.here, next(self.frames, (len(self.index.starts), None))
        return self.here if self.here[0] == wanted else self.before

    def _key_before(self, wanted: int, back: int = 1) -> int:
        """Return the last key frame up to an index, or an earlier one; -1 if there is none to seek to."""
        if not self.seekable:
            return -1
        assert self.index.timeline is not None
        keys = self.index.timeline.keys
        place = int(np.searchsorted(keys, wanted, side="right")) - back
        return int(keys[place]) if place >= 0 else -1

    def _seek(self, wanted: int) -> bool:
        """Move to a key frame up to `wanted`; return False if no seek leads to one."""
        assert self.index.timeline is not None
        for back in SEEK_KEYS:
            key = self._key_before(wanted, back)
            if key <= max(0, self.here[0]):
                return False
            with contextlib.suppress(av.FFmpegError):
                self.container.seek(int(self.index.timeline.ticks[key]), stream=self.stream)
                packets = self.container.demux(self.stream)
                landed = next((packet for packet in packets if packet.is_keyframe), None)
                if landed is None or landed.pts is None:
                    continue
                frames = self._decoded(chain([landed], packets))
                first = next(frames, None)
                if first is not None and first.pts == landed.pts:
                    numbered = self._numbered(chain([first], frames))
                    here = next(numbered, (len(self.index.starts), None))
                    if here[0] <= wanted:
                        self.before, self.here, self.frames = (-1, None), here, numbered
                        return True
        return False

    def _decoded(self, packets: Iterator[Any]) -> Iterator[Any]:
        """Yield the frames of packets, the decodable ones."""
        for number, packet in enumerate(packets):
            if packet.size == 0 and packet.pts is not None:
                continue  # an empty sample; decoders take it for the end
            if self.index.timeline is None and packet.size:
                packet.pts = number  # which its frame then has
            try:
                yield from packet.decode()
            except av.FFmpegError:
                self.failed.append(number)

    def _numbered(self, frames: Iterator[Any]) -> Iterator[Decoded]:
        """Yield frames in presentation order with their indices: by time, else counted from the first."""
        times = self.index.timeline
        if times is None:
            yield from self._counted(frames)
            return
        clock = Clock(times.parts)
        found, previous = -1, None
        for frame in frames:
            tick = None if frame.pts is None else clock.tick(frame.pts)
            if tick is None:
                continue
            if tick == previous and found + 1 in times.moved:
                found += 1
                yield found, frame
                continue
            place = int(np.searchsorted(times.ticks, tick))
            # Other frames are those that an edit list cuts off, or whose times are wrong.
            if place < len(times.ticks) and times.ticks[place] == tick:
                found, previous = place, tick
                yield found, frame

    def _counted(self, frames: Iterator[Any]) -> Iterator[Decoded]:
        """Yield frames with their numbers, counting those that packets failed to give.

        A frame's time is its packet's number here. A packet that gave no frame is known by an error, or when
        frames of later packets have come.
        """
        reordered = REORDERED_MPEG4 if self.index.codec.startswith("m") else REORDERED_FRAMES
        seen, without = set[int](), self.index.without
        silent = checked = 0
        for count, frame in enumerate(frames):
            own = frame.pts
            if own is None or without is None:
                yield count + len(self.failed), frame
                continue
            seen.add(own)
            while checked < own - reordered:
                silent += not (checked in seen or checked in without or checked in self.failed)
                checked += 1
            yield count + silent + sum(each < own for each in self.failed), frame


def count_decodable(path: Path, stream_number: int) -> int:
    """Return how many frames of a file can be decoded from its beginning to its end."""
    with open_video(path) as container:
        stream = container.streams[stream_number]
        stream.thread_type = "AUTO"
        count = 0
        for packet in container.demux(stream):
            if packet.size == 0 and packet.pts is not None:
                continue
            try:
                count += len(packet.decode())
            except av.FFmpegError:
                continue
        return count
