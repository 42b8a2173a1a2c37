"""What happens when in a video: cues, instances with their labels, and motions that nobody annotates.

Drawn with `random` and `integers` only and rounded to milliseconds, so that annotations are the same on every
machine.
"""

from dataclasses import dataclass, replace

import numpy as np

from datasets.miniature.motions import Motion, MotionRange
from datasets.miniature.tracks import Event
from datasets.synthetic.config import SyntheticConfig

PLAIN = {
    "orbit": MotionRange("orbit", rate=(0.6, 1.1), amount=(5, 9)),
    "swing": MotionRange("swing", rate=(0.7, 1.3), amount=(0.6, 1.1)),
}
LONG_RANGE = {
    "bounce": MotionRange("bounce", rate=(1.0, 1.8), amount=(6, 11)),
    "pulse": MotionRange("pulse", rate=(0.9, 1.5), amount=(0.3, 0.45)),
}
"""Each is two classes, by the direction of the last cue."""
SHORT_RANGE = {"shake": MotionRange("shake", rate=(1.2, 2.0), amount=(4, 7))}
"""Each is two classes, by the axis along which the marker moves meanwhile."""
DIRECTIONS, AXES = ("left", "right"), ("nod", "sway")
MARKER_MOTIONS = {
    "nod": MotionRange("vertical-shake", rate=(1.4, 2.0), amount=(2.5, 3.5)),
    "sway": MotionRange("shake", rate=(1.4, 2.0), amount=(2.5, 3.5)),
}
MOTIONS = {**PLAIN, **LONG_RANGE, **SHORT_RANGE}
CLASSES = tuple(
    sorted(
        (
            *PLAIN,
            *(f"{kind}-after-{direction}" for kind in LONG_RANGE for direction in DIRECTIONS),
            *(f"{kind}-with-{axis}" for kind in SHORT_RANGE for axis in AXES),
        )
    )
)
ACTORS, MARKER, PASSER = 2, 2, 3
"""Sprites 0 and 1 act, 2 moves in its corner, 3 passes by as a cue."""
EDGE_SECONDS = 0.5
PAUSED_SECONDS = 2.2


@dataclass(frozen=True)
class Cue:
    """The passage of the passer from `start` to `end` seconds, to the `direction` left or right."""

    start: float
    end: float
    direction: str


@dataclass(frozen=True)
class Timeline:
    """The annotated instances (events with labels), the motions that the sprites perform, and the cues."""

    instances: tuple[Event, ...]
    motions: tuple[Event, ...]
    cues: tuple[Cue, ...]


def draw_timeline(config: SyntheticConfig, random: np.random.Generator, duration: float) -> Timeline:
    """Return what happens in a video of `duration` seconds."""
    cues = _draw_cues(config, random, duration)
    instances = _draw_instances(config, random, duration, cues)
    motions: list[Event] = []
    for instance in instances:
        motions += _parts(config, random, instance)
    motions += _draw_near_misses(config, random, duration, instances)
    motions += _draw_marker(random, duration, instances)
    return Timeline(instances, tuple(motions), cues)


def between(random: np.random.Generator, low: float, high: float) -> float:
    """Return a number drawn uniformly between two."""
    return low + (high - low) * random.random()


def chosen(random: np.random.Generator, names: tuple[str, ...]) -> str:
    """Return one of the names, all equally likely."""
    return names[int(random.integers(len(names)))]


def _draw_cues(config: SyntheticConfig, random: np.random.Generator, duration: float) -> tuple[Cue, ...]:
    """Return cues so far apart that at most one is in reach of an instance."""
    cues, start = [], between(random, 0.3, 2.5)
    while start + config.cue_seconds + config.cue_gap[0] < duration:
        start = round(start, 3)
        cues.append(Cue(start, round(start + config.cue_seconds, 3), chosen(random, DIRECTIONS)))
        start += config.cue_seconds + config.cue_gap[1] + between(random, 0.5, 3.0)
    return tuple(cues)


def _cue_in_reach(config: SyntheticConfig, cues: tuple[Cue, ...], start: float) -> Cue | None:
    low, high = config.cue_gap
    found = [cue for cue in cues if low <= start - cue.end <= high]
    return found[0] if found else None


def _draw_instances(
    config: SyntheticConfig, random: np.random.Generator, duration: float, cues: tuple[Cue, ...]
) -> tuple[Event, ...]:
    shortest, longest = config.instance_seconds
    events: list[Event] = []
    start, actor = EDGE_SECONDS + 2.0 * random.random(), int(random.integers(ACTORS))
    while duration - EDGE_SECONDS - start >= shortest:
        # Log-uniform lengths: as many instances between 1 and 2 s as between 2 and 4 s.
        length = shortest * (longest / shortest) ** random.random()
        length = min(length, duration - EDGE_SECONDS - start)
        begin, end = round(start, 3), round(start + length, 3)
        kind, label = _draw_label(config, random, _cue_in_reach(config, cues, begin))
        motion = MOTIONS[kind].draw(random, least_rate=1.0 / length)
        ramp = min(between(random, *config.ramp_seconds), 0.4 * length)
        events.append(Event(actor, begin, end, replace(motion, ramp=ramp), label))
        touching = random.random() < config.touching_share
        gap = between(random, *config.gap_seconds)
        actor = 1 - actor if touching else int(random.integers(ACTORS))
        start = end if touching else end + gap
    return tuple(events)


def _draw_label(config: SyntheticConfig, random: np.random.Generator, cue: Cue | None) -> tuple[str, str]:
    """Return the motion of an instance and its class."""
    depends = random.random() < config.cue_share
    if cue is not None and depends:
        kind = chosen(random, tuple(LONG_RANGE))
        return kind, f"{kind}-after-{cue.direction}"
    classes = (*PLAIN, *(f"{kind}-with-{axis}" for kind in SHORT_RANGE for axis in AXES))
    label = chosen(random, classes)
    return label.partition("-")[0], label


def _parts(config: SyntheticConfig, random: np.random.Generator, instance: Event) -> list[Event]:
    """Return the motion of an instance: one, or two with a pause between."""
    length = instance.end - instance.start
    paused, at = random.random() < config.pause_share, between(random, 0.35, 0.65)
    pause = between(random, *config.pause_seconds)
    if not paused or length < PAUSED_SECONDS:
        return [replace(instance, label=None)]
    middle = instance.start + at * length
    ramp = min(instance.motion.ramp, 0.25 * (length - pause))
    motion = replace(instance.motion, ramp=ramp)
    return [
        Event(instance.sprite, instance.start, middle - pause / 2, motion, None),
        Event(instance.sprite, middle + pause / 2, instance.end, motion, None),
    ]


def _draw_near_misses(
    config: SyntheticConfig, random: np.random.Generator, duration: float, instances: tuple[Event, ...]
) -> list[Event]:
    """Return short motions beside instances, by the sprite that acts there, where it has the time."""
    found: list[Event] = []
    for instance in instances:
        for before in (True, False):
            wanted = random.random() < config.near_miss_share
            length, gap = between(random, *config.near_miss_seconds), between(random, 0.15, 0.45)
            motion = _near_miss(random, length)
            start = instance.start - gap - length if before else instance.end + gap
            others = [*instances, *found]
            free = all(
                start - 0.15 > other.end or start + length + 0.15 < other.start
                for other in others
                if other.sprite == instance.sprite and other is not instance
            )
            if wanted and free and start > 0 and start + length < duration:
                found.append(Event(instance.sprite, start, start + length, motion, None))
    return found


def _near_miss(random: np.random.Generator, length: float) -> Motion:
    motion = MOTIONS[chosen(random, tuple(MOTIONS))].draw(random, least_rate=1.0 / length)
    return replace(motion, ramp=0.15)


def _draw_marker(random: np.random.Generator, duration: float, instances: tuple[Event, ...]) -> list[Event]:
    """Return the marker's motions: with the instances of short-range classes, and at other times."""
    found = []
    told = [event for event in instances if event.label is not None and "-with-" in event.label]
    for instance in told:
        axis = str(instance.label).rpartition("-")[2]
        motion = MARKER_MOTIONS[axis].draw(random)
        found.append(Event(MARKER, instance.start, instance.end, replace(motion, ramp=0.2), None))
    start = random.random()
    while start < duration - 1.0:
        length, axis = between(random, 0.8, 3.0), chosen(random, AXES)
        motion = replace(MARKER_MOTIONS[axis].draw(random), ramp=0.2)
        end = start + length
        if all(end + 0.2 < event.start or start - 0.2 > event.end for event in told):
            found.append(Event(MARKER, start, end, motion, None))
        start = end + between(random, 0.3, 1.5)
    return found
