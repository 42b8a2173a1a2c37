"""The content of each video: sprites, their paths and motions, and the camera's path.

Each scene has its own random generator, seeded by seed, domain, subset and index: adding videos to a subset,
or another subset, does not change the others. Annotations are drawn first, with `random` and `integers` only,
and their seconds are rounded, so that they are the same on every machine.
"""

import math
from dataclasses import dataclass

import numpy as np

from datasets.miniature.config import SOURCE_SUBSETS, SUBSETS, MiniatureConfig
from datasets.miniature.motions import DISTRACTORS, SOURCE_CLASSES, TARGET_CLASSES, Floats
from datasets.miniature.tracks import (
    POSITION_BITS,
    REFERENCE_SIZE,
    Event,
    Track,
    follow,
    quantize,
    scaled,
    wander,
)

TARGET_DOMAIN, SOURCE_DOMAIN = 1, 2
TARGET_SHAPES = ("arrow", "bar", "corner", "half-disk", "wedge")
SOURCE_SHAPES = ("bar", "corner", "disk", "square", "wedge")
EDGE_SECONDS = 0.4
"""Least distance of an instance from its video's beginning and end."""


@dataclass(frozen=True)
class Sprite:
    """A sprite's appearance: outline, radius in pixels, and the colours of its halves (RGB)."""

    shape: str
    radius: float
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True, eq=False)
class Scene:
    """The input of the renderer; `pan` and `drift` (frames, 2), pixels, are the paths of the two textures."""

    frames: int
    events: tuple[Event, ...]
    sprites: tuple[Sprite, ...]
    tracks: tuple[Track, ...]
    background: tuple[float, float, float]
    calm: bool
    noise: float
    pan: Floats
    drift: Floats
    seed: tuple[int, ...]


def target_scene(config: MiniatureConfig, subset: str, index: int) -> Scene:
    """Return the scene of one untrimmed video."""
    seed = (config.seed, TARGET_DOMAIN, SUBSETS.index(subset), index)
    random = np.random.default_rng(seed)
    frames = _draw_frames(config, random)
    duration = frames / config.frames_per_second
    count = int(random.integers(config.sprites[0], config.sprites[1] + 1))
    instances = _draw_instances(config, random, duration, count)
    events = (*instances, *_draw_distractors(config, random, duration, count, instances))
    background = draw_colour(random, 70, 180)
    sprites = tuple(draw_sprite(random, TARGET_SHAPES, (6.5, 10.0), background) for _ in range(count))
    times = frame_middles(frames, config.frames_per_second)
    scale = config.size / REFERENCE_SIZE
    pan = config.camera_scale * np.stack([wander(random, times, 6.0, 6.0) for _ in range(2)], axis=1)
    jitter = config.camera_scale * np.stack([wander(random, times, 0.4, 0.7) for _ in range(2)], axis=1)
    drift = np.stack([wander(random, times, 5.0, 8.0) for _ in range(2)], axis=1)
    # The camera partly follows its actors, so that they stay in the picture.
    shift = -(0.35 * pan + jitter)
    tracks = []
    for number in range(count):
        home = _draw_home(random, number, count)
        path = _draw_path(config, random, times, home)
        track = follow(path, [event for event in events if event.sprite == number], times, shift)
        tracks.append(scaled(track, scale))
    return Scene(
        frames=frames,
        events=events,
        sprites=tuple(_enlarged(sprite, scale) for sprite in sprites),
        tracks=tuple(tracks),
        background=background,
        calm=False,
        noise=3.0 * config.noise_scale,
        pan=quantize((pan + jitter) * scale, POSITION_BITS),
        drift=quantize(drift * scale, POSITION_BITS),
        seed=(*seed, 1),
    )


def source_label(index: int) -> str:
    """Return the class of a source clip: classes alternate, so that every subset is balanced."""
    names = sorted(SOURCE_CLASSES)
    return names[index % len(names)]


def source_scene(config: MiniatureConfig, subset: str, index: int) -> Scene:
    """Return the scene of one trimmed clip: a large sprite with one motion on a calm background."""
    seed = (config.seed, SOURCE_DOMAIN, SOURCE_SUBSETS.index(subset), index)
    random = np.random.default_rng(seed)
    frames = int(random.integers(config.source_frames[0], config.source_frames[1] + 1))
    duration = frames / config.frames_per_second
    label = source_label(index)
    speed = _between(random, *config.source_speed)
    motion = SOURCE_CLASSES[label].draw(random, speed=speed, size=config.source_amount)
    # The clip starts after the motion's start and ends before its end: no ramp is visible.
    lead = 0.0 if motion.kind in ("slide-x", "slide-y", "zoom") else 0.2 + random.random()
    event = Event(0, -lead, duration + (0.2 if lead else 0.0), motion, label)
    background = draw_colour(random, 40, 215)
    sprite = draw_sprite(random, SOURCE_SHAPES, (9.0, 15.0), background)
    if label == "spin" and sprite.shape == "disk":
        # The rotation of a disk is not visible.
        sprite = Sprite("bar", sprite.radius, sprite.colours)
    times = frame_middles(frames, config.frames_per_second)
    still = np.zeros(frames)
    path = Track(
        x=still + _between(random, 24, 40),
        y=still + _between(random, 26, 42),
        angle=still + 2 * np.pi * random.random(),
        scale=np.ones(frames),
        brightness=np.ones(frames),
    )
    scale = config.size / REFERENCE_SIZE
    return Scene(
        frames=frames,
        events=(event,),
        sprites=(_enlarged(sprite, scale),),
        tracks=(scaled(follow(path, [event], times, np.zeros((frames, 2))), scale),),
        background=background,
        calm=True,
        noise=1.0,
        pan=np.zeros((frames, 2)),
        drift=np.zeros((frames, 2)),
        seed=(*seed, 1),
    )


def frame_middles(frames: int, frames_per_second: int) -> Floats:
    """Return the time that each frame shows, (frames,) seconds: the middle of its display time."""
    return (np.arange(frames) + 0.5) / frames_per_second


def _between(random: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * random.random()


def _draw_frames(config: MiniatureConfig, random: np.random.Generator) -> int:
    short = random.random() < config.short_share
    seconds = _between(random, *(config.short_video_seconds if short else config.video_seconds))
    return round(seconds * config.frames_per_second)


def _draw_instances(
    config: MiniatureConfig, random: np.random.Generator, duration: float, count: int
) -> tuple[Event, ...]:
    names = sorted(TARGET_CLASSES)
    shortest, longest = config.instance_seconds
    events: list[Event] = []
    start = EDGE_SECONDS + 3.0 * random.random()
    while True:
        room = duration - EDGE_SECONDS - start
        if room < shortest:
            if events:
                return tuple(events)
            start, room = EDGE_SECONDS, duration - 2 * EDGE_SECONDS
        # Log-uniform lengths: as many instances between 1 and 2 s as between 4 and 8 s.
        length = min(shortest * (longest / shortest) ** random.random(), room)
        label = names[int(random.integers(len(names)))]
        motion = TARGET_CLASSES[label].draw(random, least_rate=1.0 / length)
        sprite = int(random.integers(count))
        events.append(Event(sprite, round(start, 3), round(start + length, 3), motion, label))
        start += length + _between(random, *config.gap_seconds)


def _draw_distractors(
    config: MiniatureConfig,
    random: np.random.Generator,
    duration: float,
    count: int,
    instances: tuple[Event, ...],
) -> tuple[Event, ...]:
    """Return short motions of sprites that perform no action at the time; another sprite may."""
    if config.distractor_scale <= 0:
        return ()
    names = sorted(DISTRACTORS)
    events = []
    for sprite in range(count):
        own = [event for event in instances if event.sprite == sprite]
        start = 2.0 * random.random()
        while start < duration - 1.0:
            end = start + _between(random, 0.3, 0.9)
            motion = DISTRACTORS[names[int(random.integers(len(names)))]].draw(random)
            if all(end + 0.4 < event.start or start - 0.4 > event.end for event in own):
                events.append(Event(sprite, start, end, motion, None))
            start = end + _between(random, 0.8, 4.0) / config.distractor_scale
    return tuple(events)


def draw_colour(random: np.random.Generator, low: float, high: float) -> tuple[float, float, float]:
    """Return a colour (RGB), each part between two values."""
    return (_between(random, low, high), _between(random, low, high), _between(random, low, high))


def draw_sprite(
    random: np.random.Generator,
    shapes: tuple[str, ...],
    radius: tuple[float, float],
    background: tuple[float, float, float],
) -> Sprite:
    """Return a sprite of one of the shapes, of a radius (pixels) between two, visible on the background."""
    shape = shapes[int(random.integers(len(shapes)))]
    first = _distinct_colour(random, (background,))
    return Sprite(shape, _between(random, *radius), (first, _distinct_colour(random, (background, first))))


def _distinct_colour(
    random: np.random.Generator, others: tuple[tuple[float, float, float], ...]
) -> tuple[float, float, float]:
    """Return the first of several random colours that is far enough from the others, else the last one.

    A sprite must be visible.
    """
    colour = draw_colour(random, 0, 255)
    for _ in range(8):
        if all(math.dist(colour, other) > 90 for other in others):
            break
        colour = draw_colour(random, 0, 255)
    return colour


def _draw_home(random: np.random.Generator, number: int, count: int) -> tuple[float, float]:
    """Return a sprite's home position in pixels: each in its own column, with room to move."""
    across = (number + 0.5) / count + _between(random, -0.08, 0.08)
    return (REFERENCE_SIZE * (0.12 + 0.76 * across), REFERENCE_SIZE * _between(random, 0.36, 0.68))


def _draw_path(
    config: MiniatureConfig, random: np.random.Generator, times: Floats, home: tuple[float, float]
) -> Track:
    drift = config.drift_scale
    return Track(
        x=home[0] + drift * wander(random, times, 2.5, 2.2),
        y=home[1] + drift * wander(random, times, 2.5, 2.2),
        angle=2 * np.pi * random.random() + drift * wander(random, times, 4.0, 0.35),
        scale=np.exp(drift * wander(random, times, 4.0, 0.06)),
        brightness=np.ones_like(times),
    )


def _enlarged(sprite: Sprite, scale: float) -> Sprite:
    return Sprite(sprite.shape, sprite.radius * scale, sprite.colours)
