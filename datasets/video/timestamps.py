"""Presentation times of the frames of a file, from the packets of its container, with local repairs.

Containers in use have faults: a time that occurs twice, a packet without a time, a time far from those of its
neighbours, a clock that restarts where two recordings were joined. Only the packets concerned are changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

REORDERED_FRAMES = 32
"""Largest distance between a frame's places in decoding and presentation order; H.264 and H.265 allow 16."""
BACK_SECONDS = 2.0
"""A time that is earlier than a previous one by more than this (and by 32 frames) is of a restarted clock."""
AHEAD_SECONDS = 10.0
"""A larger step forward is a new clock in formats whose clocks restart: FFmpeg's `dts_delta_threshold`."""
RESTARTING = ("mpegts", "mpeg")
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

    `ticks` (n,) ascend strictly; parts whose clock restarts are joined: `offsets` has, for each part, the
    number that was added to its times. `moved` are the indices of frames whose time occurred before; they
    were put between it and the next. `repaired` counts these and the packets that were left out because
    their time is missing or far from its neighbours'. `step` is the median step between times, in ticks.
    `keys` are the indices of key frames.
    `instant`: no key frame is known to need earlier frames. `closed`: decoding can start at every key frame,
    and gives it and the later frames only.
    """

    ticks: NDArray[np.int64]
    offsets: tuple[int, ...]
    moved: frozenset[int]
    repaired: int
    step: float
    keys: NDArray[np.int64]
    instant: bool
    closed: bool

    @property
    def restarts(self) -> int:
        """How often the clock restarts."""
        return len(self.offsets) - 1

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


class Clock:
    """Converts the times of frames or packets in stream order to those of the joined parts."""

    def __init__(self, offsets: Sequence[int] | None, back: float, ahead: float) -> None:
        self.offsets, self.back, self.ahead = offsets, back, ahead
        self.part = 0
        self.latest: int | None = None

    def advance(self, pts: int) -> int:
        """Return the number of the part that a time belongs to."""
        if self.latest is not None and (pts < self.latest - self.back or pts > self.latest + self.ahead):
            self.part, self.latest = self.part + 1, pts
        else:
            self.latest = pts if self.latest is None else max(self.latest, pts)
        return self.part

    def tick(self, pts: int) -> int | None:
        """Return the joined time of a frame; None if the index has no such part."""
        assert self.offsets is not None
        part = 0 if len(self.offsets) == 1 else self.advance(pts)
        return pts + self.offsets[part] if part < len(self.offsets) else None


def clock_limits(container: str, step: float, tick_seconds: float) -> tuple[float, float]:
    """Return the steps back and ahead, in ticks, beyond which a clock has restarted."""
    back = max(BACK_SECONDS / tick_seconds, REORDERED_FRAMES * step)
    restarts = any(name in RESTARTING for name in container.split(","))
    return back, max(AHEAD_SECONDS / tick_seconds, back) if restarts else np.inf


def read_packets(container: Any, stream: Any) -> tuple[list[Packet], int, int]:
    """Return the packets that give pictures, the number of discarded ones, and that of frames present.

    AVI counts empty chunks as frames (the previous picture is shown again); FFmpeg leaves them out, but its
    decoding times are the chunks' numbers.
    """
    codec, extra = stream.codec_context.name, bytes(stream.codec_context.extradata or b"")
    length_size = (extra[4] & 3) + 1 if len(extra) > 4 and extra[0] == 1 else 0
    packets: list[Packet] = []
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
        packets.append(
            Packet(
                packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, instant, packet.is_corrupt
            )
        )
    present = len(packets) + discarded + empty
    if packets and container.format.name == "avi":
        present = max(present, 1 + max(packet.dts or 0 for packet in packets))
    return packets, discarded, present


def timeline(packets: Sequence[Packet], container: str, tick_seconds: float) -> Timeline | None:
    """Return the times of the frames of packets in decoding order; None if too many packets have no time."""
    timed = [packet for packet in packets if packet.pts is not None]
    if len(timed) < min(2, len(packets)) or len(packets) - len(timed) > MAX_WITHOUT_TIME * len(packets):
        return None
    times = np.array([packet.pts for packet in timed], dtype=np.int64)
    keys = np.array([packet.key for packet in timed], dtype=bool)
    step = typical_step(times)
    kept = _in_place(times)
    times, keys = times[kept], keys[kept]
    clock = Clock(None, *clock_limits(container, step, tick_seconds))
    parts = np.array([clock.advance(int(pts)) for pts in times], dtype=np.int64)
    offsets = [0]
    for part in range(1, int(parts[-1]) + 1):
        before, own = times[parts == part - 1], times[parts == part]
        offsets.append(int(before.max()) + offsets[-1] + max(1, round(step)) - int(own.min()))
    joined = times + np.array(offsets, dtype=np.int64)[parts]
    ticks, moved = _apart(joined, max(1, round(step)))
    instant = all(packet.instant for packet in timed if packet.key)
    return Timeline(
        ticks=ticks,
        offsets=tuple(offsets),
        moved=moved,
        repaired=len(packets) - len(ticks) + len(moved),
        step=step,
        keys=np.unique(np.searchsorted(ticks, joined[keys])),
        instant=instant,
        closed=instant and _closed(joined, keys),
    )


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


def is_idr(data: bytes, length_size: int) -> bool:
    """Return whether a packet of H.264 holds a picture that resets the decoder (NAL unit type 5).

    `length_size` is the number of bytes of a NAL unit's length, 0 for start codes (Annex B). Other pictures
    that containers mark as key frames (recovery points, intra refresh) may need earlier frames.
    """
    if length_size == 0:
        return any(data[at + 3] & 31 == 5 for at in _start_codes(data))
    at = 0
    while at + length_size < len(data):
        if data[at + length_size] & 31 == 5:
            return True
        at += length_size + int.from_bytes(data[at : at + length_size], "big")
    return False


def _start_codes(data: bytes) -> list[int]:
    found, at = [], data.find(b"\0\0\1")
    while 0 <= at < len(data) - 3:
        found.append(at)
        at = data.find(b"\0\0\1", at + 3)
    return found
