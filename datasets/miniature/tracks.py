"""Tracks of sprites: random wandering, the offsets of motions, and bounds of dashes."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from datasets.miniature.motions import Floats, Motion, perform

REFERENCE_SIZE = 64
"""Lengths are given for pictures of this many pixels and scaled to the configured size."""
POSITION_BITS, SHAPE_BITS = 12, 14
"""Lengths are multiples of 2**-12 pixels; angles, scales and brightness of 2**-14."""


@dataclass(frozen=True)
class Event:
    """A motion of the sprite `sprite` (index) from `start` to `end` seconds; `label` None if unannotated."""

    sprite: int
    start: float
    end: float
    motion: Motion
    label: str | None


@dataclass(frozen=True, eq=False)
class Track:
    """A sprite's state in each frame, arrays (frames,): screen pixels, radians, scale, brightness."""

    x: Floats
    y: Floats
    angle: Floats
    scale: Floats
    brightness: Floats


def quantize(values: Floats, bits: int) -> Floats:
    """Round values to multiples of 2**-bits.

    Sines, exponentials and normal values of libraries differ between processors in the last bits, by some
    1e-15. They are rounded to steps a billion times as large, so that the probability that any value of a
    data set is so near a tie that another processor rounds it differently is below 1e-3. All later operations
    are additions, products, quotients and square roots, which IEEE 754 defines to the last bit.
    """
    return np.asarray(np.rint(values * 2.0**bits) / 2.0**bits)


def wander(random: np.random.Generator, times: Floats, period: float, amount: float) -> Floats:
    """Return motion (n,): normal values of deviation `amount`, one per period, interpolated linearly."""
    knots = int(times[-1] / period) + 2
    return amount * np.interp(times, np.arange(knots) * period, random.standard_normal(knots))


def follow(path: Track, events: list[Event], times: Floats, shift: NDArray[np.float64]) -> Track:
    """Return the path with the events' motions added and the camera's shift (n, 2) applied."""
    x, y, angle = path.x.copy(), path.y.copy(), path.angle.copy()
    log_scale, brightness = np.log(path.scale), path.brightness.copy()
    for event in sorted(events, key=lambda event: event.start):
        offsets = perform(
            _return_path(event.motion, x, y, times, event.start), times - event.start, event.end - event.start
        )
        x += offsets.x
        y += offsets.y
        angle += offsets.angle
        log_scale += offsets.log_scale
        brightness += offsets.brightness
    return Track(x + shift[:, 0], y + shift[:, 1], angle, np.exp(log_scale), brightness)


def scaled(track: Track, scale: float) -> Track:
    """Return the track in a picture `scale` times as large, quantized."""
    return Track(
        quantize(track.x * scale, POSITION_BITS),
        quantize(track.y * scale, POSITION_BITS),
        *(quantize(values, SHAPE_BITS) for values in (track.angle, track.scale, track.brightness)),
    )


def _return_path(motion: Motion, x: Floats, y: Floats, times: Floats, start: float) -> Motion:
    """Reverse a dash that would leave the middle of the picture; return other motions unchanged."""
    if motion.kind != "dash":
        return motion
    frame = min(int(np.searchsorted(times, start)), len(times) - 1)
    across, down = math.cos(motion.phase) * motion.amount, math.sin(motion.phase) * motion.amount
    if not 14 < x[frame] + across < REFERENCE_SIZE - 14:
        across = math.copysign(across, REFERENCE_SIZE / 2 - x[frame])
    if not 18 < y[frame] + down < REFERENCE_SIZE - 16:
        down = math.copysign(down, REFERENCE_SIZE / 2 - y[frame])
    return replace(motion, phase=math.atan2(down, across))
