"""The motions of sprites, as functions of the time since their start.

A single picture must not reveal the class, so each motion is a change over time: of position, angle, size
or brightness.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RAMP_SECONDS = 0.15
"""Time in which a motion fades in and out; a jump of several pixels would reveal its boundaries."""


@dataclass(frozen=True)
class Motion:
    """One motion: `rate` in cycles per second, `amount` in the unit of the changed quantity, `sign` +1 or -1.

    `phase` is its initial phase in radians, `ramp` the seconds in which it fades in and out.
    """

    kind: str
    rate: float = 1.0
    amount: float = 1.0
    sign: float = 1.0
    phase: float = 0.0
    ramp: float = RAMP_SECONDS


@dataclass(frozen=True, eq=False)
class Offsets:
    """The offsets of a motion at each time, arrays (n,): pixels, radians, logarithm of size, brightness."""

    x: Floats
    y: Floats
    angle: Floats
    log_scale: Floats
    brightness: Floats


@dataclass(frozen=True)
class MotionRange:
    """The parameter ranges of a class's motions, and the function that computes them."""

    kind: str
    rate: tuple[float, float] = (1.0, 1.0)
    amount: tuple[float, float] = (1.0, 1.0)
    signs: tuple[float, ...] = (-1.0, 1.0)

    def draw(
        self, random: np.random.Generator, least_rate: float = 0.0, speed: float = 1.0, size: float = 1.0
    ) -> Motion:
        """Draw a motion of this class; `least_rate` ensures that a short one still shows a full cycle."""
        low, high = self.rate
        low = min(max(low, least_rate), high)
        return Motion(
            kind=self.kind,
            rate=(low + (high - low) * random.random()) * speed,
            amount=(self.amount[0] + (self.amount[1] - self.amount[0]) * random.random()) * size,
            sign=self.signs[int(random.integers(len(self.signs)))],
            phase=2 * np.pi * random.random(),
        )


TARGET_CLASSES = {
    "bounce": MotionRange("bounce", rate=(1.0, 2.0), amount=(7, 12)),
    "orbit": MotionRange("orbit", rate=(0.5, 1.0), amount=(6, 10)),
    "pulse": MotionRange("pulse", rate=(0.9, 1.6), amount=(0.3, 0.45)),
    "shake": MotionRange("shake", rate=(1.2, 2.2), amount=(3.5, 6.5)),
    "spin": MotionRange("spin", rate=(0.5, 1.1)),
    "swing": MotionRange("swing", rate=(0.7, 1.3), amount=(0.6, 1.1)),
}

SOURCE_CLASSES = {
    "down": MotionRange("slide-y", amount=(7, 12), signs=(1.0,)),
    "flash": MotionRange("flash", rate=(0.8, 1.8), amount=(0.4, 0.6)),
    "hop": MotionRange("bounce", rate=(1.0, 2.0), amount=(6, 10)),
    "left": MotionRange("slide-x", amount=(7, 12), signs=(-1.0,)),
    "pulse": MotionRange("pulse", rate=(0.9, 1.6), amount=(0.22, 0.35)),
    "right": MotionRange("slide-x", amount=(7, 12), signs=(1.0,)),
    "spin": MotionRange("spin", rate=(0.5, 1.1)),
    "still": MotionRange("still"),
    "up": MotionRange("slide-y", amount=(7, 12), signs=(-1.0,)),
    "vertical-shake": MotionRange("vertical-shake", rate=(1.2, 2.2), amount=(3.5, 6.5)),
    "zoom-in": MotionRange("zoom", amount=(0.28, 0.46), signs=(1.0,)),
    "zoom-out": MotionRange("zoom", amount=(0.28, 0.46), signs=(-1.0,)),
}

DISTRACTORS = {
    "dash": MotionRange("dash", amount=(4, 9)),
    "flick": MotionRange("flick", amount=(0.2, 0.32)),
    "hop": MotionRange("leap", amount=(5, 10)),
    "turn": MotionRange("turn", amount=(0.6, 1.8)),
}
"""Short motions that are never annotated: each resembles a part of one cycle of a class."""


def perform(motion: Motion, since: Floats, duration: float) -> Offsets:
    """Return the motion's offsets at the times `since` (n,) seconds after its start.

    Offsets are zero before the start; after the end only the lasting ones remain: the angle turned and the
    distance dashed.
    """
    within = np.clip(since, 0.0, duration)
    change = _KINDS[motion.kind](motion, within, duration)
    if motion.kind not in _LASTING:
        ramp = np.minimum(within, duration - within) / motion.ramp
        present = np.clip(ramp, 0.0, 1.0) if motion.kind not in _ABRUPT else np.ones_like(ramp)
        change = {name: values * present for name, values in change.items()}
    zero = np.zeros_like(within)
    names = ("x", "y", "angle", "log_scale", "brightness")
    return Offsets(**{name: change.get(name, zero) for name in names})


Change = dict[str, Floats]


def _wave(motion: Motion, time: Floats) -> Floats:
    return motion.sign * motion.amount * np.sin(2 * np.pi * motion.rate * time)


def _spin(motion: Motion, time: Floats, _: float) -> Change:
    return {"angle": motion.sign * 2 * np.pi * motion.rate * time}


def _swing(motion: Motion, time: Floats, _: float) -> Change:
    return {"angle": _wave(motion, time)}


def _bounce(motion: Motion, time: Floats, _: float) -> Change:
    return {"y": -motion.amount * np.abs(np.sin(np.pi * motion.rate * time))}


def _shake(motion: Motion, time: Floats, _: float) -> Change:
    return {"x": _wave(motion, time)}


def _vertical_shake(motion: Motion, time: Floats, _: float) -> Change:
    return {"y": _wave(motion, time)}


def _orbit(motion: Motion, time: Floats, _: float) -> Change:
    turn = motion.phase + motion.sign * 2 * np.pi * motion.rate * time
    return {"x": motion.amount * np.cos(turn), "y": motion.amount * np.sin(turn)}


def _pulse(motion: Motion, time: Floats, _: float) -> Change:
    return {"log_scale": _wave(motion, time)}


def _flash(motion: Motion, time: Floats, _: float) -> Change:
    return {"brightness": motion.amount * np.sin(2 * np.pi * motion.rate * time + motion.phase)}


def _slide_x(motion: Motion, time: Floats, duration: float) -> Change:
    return {"x": motion.sign * motion.amount * (time - duration / 2)}


def _slide_y(motion: Motion, time: Floats, duration: float) -> Change:
    return {"y": motion.sign * motion.amount * (time - duration / 2)}


def _zoom(motion: Motion, time: Floats, duration: float) -> Change:
    return {"log_scale": motion.sign * motion.amount * (time - duration / 2)}


def _still(_: Motion, time: Floats, __: float) -> Change:
    return {}


def _eased(time: Floats, duration: float) -> Floats:
    """Return a ramp from 0 to 1 over the duration, slow at both ends."""
    part = time / duration
    return part * part * (3 - 2 * part)


def _dash(motion: Motion, time: Floats, duration: float) -> Change:
    way = motion.amount * _eased(time, duration)
    return {"x": np.cos(motion.phase) * way, "y": np.sin(motion.phase) * way}


def _turn(motion: Motion, time: Floats, duration: float) -> Change:
    return {"angle": motion.sign * motion.amount * _eased(time, duration)}


def _leap(motion: Motion, time: Floats, duration: float) -> Change:
    return {"y": -motion.amount * np.sin(np.pi * time / duration)}


def _flick(motion: Motion, time: Floats, duration: float) -> Change:
    return {"log_scale": motion.sign * motion.amount * np.sin(np.pi * time / duration)}


_KINDS: dict[str, Callable[[Motion, Floats, float], Change]] = {
    "bounce": _bounce,
    "dash": _dash,
    "flash": _flash,
    "flick": _flick,
    "leap": _leap,
    "orbit": _orbit,
    "pulse": _pulse,
    "shake": _shake,
    "slide-x": _slide_x,
    "slide-y": _slide_y,
    "spin": _spin,
    "still": _still,
    "swing": _swing,
    "turn": _turn,
    "vertical-shake": _vertical_shake,
    "zoom": _zoom,
}
_LASTING = frozenset({"spin", "dash", "turn"})
_ABRUPT = frozenset({"slide-x", "slide-y", "zoom", "flash"})
