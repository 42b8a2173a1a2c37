"""Where sprites are: their wandering, what their performances add, and where a dash may go."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.miniature.motions import Floats, Motion, perform

REFERENCE_SIZE = 64
"""Lengths are written for pictures of so many pixels and scaled to the configured size."""
POSITION_BITS, SHAPE_BITS = 12, 14
"""Lengths are multiples of 2**-12 pixels; angles, scales and brightness of 2**-14."""


@dataclass(frozen=True)
class Event:
    """A motion of the sprite number `sprite` from `start` to `end` seconds; `label` None if not annotated."""

    sprite: int
    start: float
    end: float
    motion: Motion
    label: str | None


@dataclass(frozen=True, eq=False)
class Track:
    """Where a sprite is in each frame, arrays (frames,): screen pixels, radians, scale, brightness."""

    x: Floats
    y: Floats
    angle: Floats
    scale: Floats
    brightness: Floats


def quantize(values: Floats, bits: int) -> Floats:
    """The values rounded to multiples of 2**-bits.

    Libraries of sines, exponentials and normal values differ in the last bits from one processor to the next,
    by some 1e-15. What is drawn from them is rounded to steps a billion times as large, so that the chance
    of a value so near a tie that another processor rounds it the other way is below 1e-3 in a whole data set.
    All that follows is additions, products, quotients and square roots, which IEEE 754 fixes to the last bit.
    """
    return np.asarray(np.rint(values * 2.0**bits) / 2.0**bits)


def wander(random: np.random.Generator, times: Floats, period: float, amount: float) -> Floats:
    """Smooth random motion (n,): normal values of deviation `amount`, one a period, and lines between."""
    knots = int(times[-1] / period) + 2
    return amount * np.interp(times, np.arange(knots) * period, random.standard_normal(knots))


def follow(path: Track, events: list[Event], times: Floats, shift: NDArray[np.float64]) -> Track:
    """The path with the events' motions added and the camera's shift (n, 2) applied."""
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
    """The track in a picture `scale` times as large, quantized."""
    return Track(
        quantize(track.x * scale, POSITION_BITS),
        quantize(track.y * scale, POSITION_BITS),
        *(quantize(values, SHAPE_BITS) for values in (track.angle, track.scale, track.brightness)),
    )


def _return_path(motion: Motion, x: Floats, y: Floats, times: Floats, start: float) -> Motion:
    """A dash turned round where it would leave the middle of the picture; any other motion as it is."""
    if motion.kind != "dash":
        return motion
    frame = min(int(np.searchsorted(times, start)), len(times) - 1)
    across, down = math.cos(motion.phase) * motion.amount, math.sin(motion.phase) * motion.amount
    if not 14 < x[frame] + across < REFERENCE_SIZE - 14:
        across = math.copysign(across, REFERENCE_SIZE / 2 - x[frame])
    if not 18 < y[frame] + down < REFERENCE_SIZE - 16:
        down = math.copysign(down, REFERENCE_SIZE / 2 - y[frame])
    return Motion(motion.kind, motion.rate, motion.amount, motion.sign, math.atan2(down, across))
