"""Presentation times of the frames of a file, from the packets of its container, with local repairs.

Containers in use have faults: a time that occurs twice, a packet without a time, a time far from those of its
neighbours, a clock that restarts where two recordings were joined. Only the packets concerned are changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.video.container import PictureCounter, is_idr

REORDERED_FRAMES = 32
"""Largest distance between a frame's places in decoding and presentation order; H.264 and H.265 allow 16."""
RESTARTING = ("mpegts", "mpeg")
"""Formats whose clock may restart, where recordings were joined: their decoding times then step."""
BACK_SECONDS = 1.0
AHEAD_SECONDS = 60.0
"""Larger steps of the decoding times, back or ahead, are restarts; shorter pauses are the recording's."""
MAX_REPEATED = 0.05
"""Largest fraction of times that occur again; if there are more, they are those of fields, not of frames."""
MAX_WITHOUT_TIME = 0.5
"""Largest fraction of packets without a time (second fields have none); if more, frames are counted."""


class Packet(NamedTuple):
    """The needed fields of one packet of a video stream; times in ticks of the stream's time base.

    `instant`: it is a key frame that is not known to need earlier frames.
    """

    pts: int | None
    dts: int | None
    duration: int
    key: bool
    instant: bool
    corrupt: bool


@dataclass(frozen=True, eq=False)
class Timeline:
    """Times of the frames in presentation order.

    `ticks` (n,) ascend strictly; the `parts` between restarts of the clock are joined. `moved` are the
    indices of frames whose time occurred before; they were put between it and the next. `repaired` counts
    these and the packets that were left out because their time is missing or far from its neighbours'.
    `keys` are the indices of key frames.
    `instant`: no key frame is known to need earlier frames. `closed`: decoding can start at every key frame,
    and gives it and the later frames only.
    """

    ticks: NDArray[np.int64]
    parts: tuple["Part", ...]
    moved: frozenset[int]
    repaired: int
    keys: NDArray[np.int64]
    instant: bool
    closed: bool

    @property
    def restarts(self) -> int:
        """How often the clock restarts."""
        return len(self.parts) - 1

    def since(self, first: int) -> "Timeline":
        """Return the timeline from a time on: earlier frames of a file that was cut cannot be decoded."""
        lost = int(np.searchsorted(self.ticks, first))
        if lost == 0 or lost == len(self.ticks):
            return self
        return replace(
            self,
            ticks=self.ticks[lost:],
            moved=frozenset(number - lost for number in self.moved if number >= lost),
            repaired=self.repaired + lost,
            keys=self.keys[self.keys >= lost] - lost,
            closed=False,
        )


class Part(NamedTuple):
    """A part of a file with one clock: its first and last time, and what to add for those of the whole."""

    first: int
    last: int
    offset: int


class Clock:
    """Converts the times of decoded frames, in presentation order, to those of the joined parts."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts, self.number = parts, 0
        self.latest: int | None = None

    def tick(self, pts: int) -> int | None:
        """Return the joined time of a frame; None if it lies outside of its part."""
        part = self.parts[self.number]
        past = pts > part.last or (self.latest is not None and pts < self.latest)
        if past and self.number + 1 < len(self.parts):
            following = self.parts[self.number + 1]
            if following.first <= pts <= following.last:
                part, self.number = following, self.number + 1
        if not part.first <= pts <= part.last:
            return None
        self.latest = pts
        return pts + part.offset


@dataclass(frozen=True)
class Packets:
    """The packets of a stream that give pictures, in decoding order.

    `discarded` counts those that an edit list cuts off, `present` all frames of the container. `without` are
    the numbers of packets that give no picture; None in a packed bitstream, where one gives two and another
    none.
    """

    shown: list[Packet]
    discarded: int
    present: int
    without: frozenset[int] | None


def read_packets(container: Any, stream: Any) -> Packets:
    """Return the packets of a stream.

    AVI counts empty chunks as frames (the previous picture is shown again); FFmpeg leaves them out, but its
    decoding times are the chunks' numbers.
    """
    codec, extra = stream.codec_context.name, bytes(stream.codec_context.extradata or b"")
    length_size = (extra[4] & 3) + 1 if len(extra) > 4 and extra[0] == 1 else 0
    counter = PictureCounter(codec, extra)
    packets: list[Packet] = []
    pictures: list[int] = []
    discarded = empty = 0
    for packet in container.demux(stream):
        if packet.size == 0:
            empty += packet.pts is not None
            continue
        if packet.is_discard:
            discarded += 1
            continue
        # Only the needed fields: with their data the whole file would be in memory.
        instant = codec != "h264" or not packet.is_keyframe or is_idr(bytes(packet), length_size)
        pictures.append(counter.count(memoryview(packet)))
        packets.append(
            Packet(
                packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, instant, packet.is_corrupt
            )
        )
    present = len(packets) + discarded + empty
    if packets and container.format.name == "avi":
        present = max(present, 1 + max(packet.dts or 0 for packet in packets))
    if max(pictures, default=1) > 1:
        return Packets(packets, discarded, present, None)
    without = frozenset(number for number, count in enumerate(pictures) if count == 0)
    shown = [packet for number, packet in enumerate(packets) if number not in without]
    return Packets(shown, discarded, present, without)


def timeline(packets: Sequence[Packet], container: str, tick_seconds: float) -> Timeline | None:
    """Return the times of the frames of packets in decoding order; None if too many packets have no time."""
    timed = [packet for packet in packets if packet.pts is not None]
    if len(timed) < min(2, len(packets)) or len(packets) - len(timed) > MAX_WITHOUT_TIME * len(packets):
        return None
    times = np.array([packet.pts for packet in timed], dtype=np.int64)
    keys = np.array([packet.key for packet in timed], dtype=bool)
    step = typical_step(times)
    numbers = (
        _part_numbers(timed, tick_seconds) if container in RESTARTING else np.zeros(len(times), np.int64)
    )
    kept = _in_place(times)
    times, keys, numbers = times[kept], keys[kept], numbers[kept]
    parts: list[Part] = []
    for number in np.unique(numbers):
        first, last = int(times[numbers == number].min()), int(times[numbers == number].max())
        begin = parts[-1].last + parts[-1].offset + max(1, round(step)) if parts else first
        parts.append(Part(first, last, begin - first))
        times[numbers == number] += begin - first
    joined = times
    ticks, moved = _apart(joined, max(1, round(step)))
    instant = all(packet.instant for packet in timed if packet.key)
    return Timeline(
        ticks=ticks,
        parts=tuple(parts),
        moved=moved,
        repaired=len(packets) - len(ticks) + len(moved),
        keys=np.unique(np.searchsorted(ticks, joined[keys])),
        instant=instant,
        closed=instant and _closed(joined, keys),
    )


def _part_numbers(packets: Sequence[Packet], tick_seconds: float) -> NDArray[np.int64]:
    """Return the number of the part of each packet: decoding times ascend within a part."""
    numbers, number, latest = [], 0, None
    for packet in packets:
        if packet.dts is not None:
            step = 0.0 if latest is None else (packet.dts - latest) * tick_seconds
            number += step < -BACK_SECONDS or step > AHEAD_SECONDS
            latest = packet.dts
        numbers.append(number)
    return np.array(numbers, dtype=np.int64)


def _apart(times: NDArray[np.int64], step: int) -> tuple[NDArray[np.int64], frozenset[int]]:
    """Return the times in order, each once, and the indices of those that occurred before and were moved."""
    ticks, counts = np.unique(times, return_counts=True)
    repeated = counts > 1
    if not 0 < (counts - 1).sum() <= max(3, MAX_REPEATED * len(times)):
        return ticks, frozenset()
    following = np.append(ticks[1:], ticks[-1] + step)
    added = [
        int(tick + (after - tick) * copy // count)
        for tick, after, count in zip(ticks[repeated], following[repeated], counts[repeated], strict=True)
        for copy in range(1, count)
    ]
    joined = np.unique([*ticks, *added])
    return joined, frozenset(np.flatnonzero(~np.isin(joined, ticks)).tolist())


def typical_step(times: NDArray[np.int64]) -> float:
    """Return the median step between consecutive different times, in ticks; 0 for a single time."""
    steps = np.diff(np.unique(times))
    return float(np.median(steps)) if len(steps) else 0.0


def _in_place(times: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which times are near those of their neighbours in decoding order, unless many are not.

    Many misplaced times are those of a restarted clock, not single wrong ones.
    """
    place = np.empty(len(times), dtype=np.int64)
    place[np.argsort(times, kind="stable")] = np.arange(len(times))
    strange = np.abs(place - np.arange(len(times))) > REORDERED_FRAMES
    few = strange.sum() <= max(3, len(times) // 100)
    return ~strange if few else np.ones(len(times), dtype=bool)


def _closed(times: NDArray[np.int64], keys: NDArray[np.bool_]) -> bool:
    """Return whether no frame that follows a key frame in decoding order precedes it in time, or reversed."""
    before = np.maximum.accumulate(np.concatenate([[np.iinfo(np.int64).min], times[:-1]]))
    after = np.minimum.accumulate(np.concatenate([times[1:], [np.iinfo(np.int64).max]])[::-1])[::-1]
    return bool(keys.any() and keys[0] and ((before < times) & (times < after))[keys].all())
