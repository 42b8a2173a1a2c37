"""What happens when in a video: cues, instances with their labels, and motions that nobody annotates.

Drawn with `random` and `integers` only and rounded to milliseconds, so that annotations are the same on every
machine.
"""

from dataclasses import dataclass, replace

import numpy as np

from datasets.miniature.motions import MotionRange
from datasets.miniature.tracks import Event
from datasets.synthetic.config import SyntheticConfig

PLAIN = {
    "flash": MotionRange("flash", rate=(0.9, 1.6), amount=(0.45, 0.65)),
    "orbit": MotionRange("orbit", rate=(0.6, 1.1), amount=(5, 9)),
    "pulse": MotionRange("pulse", rate=(0.9, 1.5), amount=(0.3, 0.45)),
    "swing": MotionRange("swing", rate=(0.8, 1.4), amount=(0.7, 1.2)),
}
LONG_RANGE = {"bounce": MotionRange("bounce", rate=(1.0, 1.8), amount=(6, 11))}
"""Each is two classes, by the direction of the last cue."""
SHORT_RANGE = {"shake": MotionRange("shake", rate=(1.2, 2.0), amount=(4, 7))}
"""Each is two classes, by what the marker does meanwhile."""
DIRECTIONS, DETAILS = ("left", "right"), ("blink", "nod")
MARKER_MOTIONS = {
    "blink": MotionRange("flash", rate=(1.4, 2.0), amount=(0.5, 0.7)),
    "nod": MotionRange("vertical-shake", rate=(1.4, 2.0), amount=(3.5, 4.5)),
}
TICK = MotionRange("flick", amount=(0.55, 0.65), signs=(1.0,))
"""The marker's motion at the bounds of an instance: it grows and shrinks."""
MOTIONS = {**PLAIN, **LONG_RANGE, **SHORT_RANGE}
CLASSES = tuple(
    sorted(
        (
            *PLAIN,
            *(f"{kind}-after-{direction}" for kind in LONG_RANGE for direction in DIRECTIONS),
            *(f"{kind}-with-{detail}" for kind in SHORT_RANGE for detail in DETAILS),
        )
    )
)
ACTORS, MARKER, PASSER = 2, 2, 3
"""Sprites 0 and 1 act, 2 moves in its corner, 3 passes by as a cue."""
EDGE_SECONDS = 0.5


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
    instances, motions = _draw_instances(config, random, duration, cues)
    marker = _draw_marker(config, random, duration, instances)
    return Timeline(tuple(instances), (*motions, *marker), cues)


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
) -> tuple[list[Event], list[Event]]:
    """Return the instances, and the motions of the actors, which are longer."""
    shortest, longest = config.instance_seconds
    instances: list[Event] = []
    motions: list[Event] = []
    start, actor = EDGE_SECONDS + 2.0 * random.random(), int(random.integers(ACTORS))
    while True:
        # Log-uniform lengths: as many instances between 1 and 2 s as between 2 and 4 s.
        length = shortest * (longest / shortest) ** random.random()
        lead, tail = between(random, *config.margin_seconds), between(random, *config.margin_seconds)
        begin, end = round(start + lead, 3), round(start + lead + length, 3)
        kind, label = _draw_label(config, random, _cue_in_reach(config, cues, begin))
        motion = MOTIONS[kind].draw(random, least_rate=1.0 / length)
        motion = replace(motion, ramp=between(random, *config.ramp_seconds))
        told = random.random() >= config.decoy_share
        touching = random.random() < config.touching_share
        gap = between(random, *config.gap_seconds)
        if end + tail > duration - EDGE_SECONDS:
            return instances, motions
        motions.append(Event(actor, start, end + tail, motion, None))
        if told:
            instances.append(Event(actor, begin, end, motion, label))
        actor = 1 - actor if touching else int(random.integers(ACTORS))
        start = end + tail if touching else end + tail + gap


def _draw_label(config: SyntheticConfig, random: np.random.Generator, cue: Cue | None) -> tuple[str, str]:
    """Return the motion of an instance and its class."""
    depends = random.random() < config.cue_share
    if cue is not None and depends:
        kind = chosen(random, tuple(LONG_RANGE))
        return kind, f"{kind}-after-{cue.direction}"
    classes = (*PLAIN, *(f"{kind}-with-{detail}" for kind in SHORT_RANGE for detail in DETAILS))
    label = chosen(random, classes)
    return label.partition("-")[0], label


def _draw_marker(
    config: SyntheticConfig, random: np.random.Generator, duration: float, instances: list[Event]
) -> list[Event]:
    """Return the marker's motions: at the bounds of instances, inside short-range ones, and between."""
    found: list[Event] = []
    half = config.tick_seconds / 2
    for instance in instances:
        for bound in (instance.start, instance.end):
            found.append(Event(MARKER, bound - half, bound + half, TICK.draw(random), None))
        if "-with-" in str(instance.label):
            detail = str(instance.label).rpartition("-")[2]
            motion = replace(MARKER_MOTIONS[detail].draw(random), ramp=0.2)
            found.append(Event(MARKER, instance.start, instance.end, motion, None))
    start = random.random()
    while start < duration - 1.0:
        length, detail = between(random, 0.8, 2.0), chosen(random, DETAILS)
        motion = replace(MARKER_MOTIONS[detail].draw(random), ramp=0.2)
        end = start + length
        if all(end + 0.4 < event.start or start - 0.4 > event.end for event in instances):
            found.append(Event(MARKER, start, end, motion, None))
        start = end + between(random, 0.3, 1.5)
    return found
