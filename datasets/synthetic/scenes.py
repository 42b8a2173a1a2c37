"""The content of each video: two actors, a marker in a corner, a passer, and the camera's path.

Each scene has its own random generator, seeded by seed, domain, subset and index. What is annotated is drawn
first, see `timeline`.
"""

import numpy as np

from datasets.miniature.motions import Floats
from datasets.miniature.scenes import (
    Scene,
    Sprite,
    draw_colour,
    draw_sprite,
    frame_middles,
)
from datasets.miniature.tracks import (
    POSITION_BITS,
    REFERENCE_SIZE,
    Track,
    follow,
    quantize,
    scaled,
    wander,
)
from datasets.synthetic.config import SUBSETS, SyntheticConfig
from datasets.synthetic.timeline import ACTORS, MARKER, Cue, Timeline, between, draw_timeline

DOMAIN = 3
ACTOR_SHAPES = ("arrow", "bar", "corner", "half-disk", "wedge")
MARKER_SHAPES = ("disk", "square")
PASSER_SHAPES = ("arrow", "wedge")
OUTSIDE = -40.0
"""Position of the passer while it is not there, in reference pixels."""


def target_timeline(config: SyntheticConfig, subset: str, index: int) -> tuple[int, Timeline]:
    """Return the number of frames of a video and what happens in it."""
    random = np.random.default_rng((config.seed, DOMAIN, SUBSETS.index(subset), index))
    frames = round(between(random, *config.video_seconds) * config.frames_per_second)
    return frames, draw_timeline(config, random, frames / config.frames_per_second)


def target_scene(config: SyntheticConfig, subset: str, index: int) -> Scene:
    """Return the scene of one untrimmed video."""
    frames, timeline = target_timeline(config, subset, index)
    seed = (config.seed, DOMAIN, SUBSETS.index(subset), index, 1)
    random = np.random.default_rng(seed)
    times = frame_middles(frames, config.frames_per_second)
    background = draw_colour(random, 70, 180)
    pan = config.camera_scale * np.stack([wander(random, times, 6.0, 6.0) for _ in range(2)], axis=1)
    jitter = config.camera_scale * np.stack([wander(random, times, 0.4, 0.7) for _ in range(2)], axis=1)
    drift = np.stack([wander(random, times, 5.0, 8.0) for _ in range(2)], axis=1)
    # The camera partly follows its actors, so that they stay in the picture.
    shift = -(0.35 * pan + jitter)
    scale = config.size / REFERENCE_SIZE
    sprites, tracks = [], []
    for number in range(ACTORS):
        sprites.append(draw_sprite(random, ACTOR_SHAPES, (6.5, 9.5), background))
        path = _actor_path(random, times, number)
        events = [event for event in timeline.motions if event.sprite == number]
        tracks.append(follow(path, events, times, shift))
    sprites.append(draw_sprite(random, MARKER_SHAPES, (5.5, 6.5), background))
    path = _still(times, 54 + between(random, -2, 2), 54 + between(random, -2, 2))
    events = [event for event in timeline.motions if event.sprite == MARKER]
    tracks.append(follow(path, events, times, np.zeros((frames, 2))))
    sprites.append(draw_sprite(random, PASSER_SHAPES, (7.0, 8.0), background))
    tracks.append(_passer_track(timeline.cues, times, between(random, 8, 13)))
    return Scene(
        frames=frames,
        events=timeline.instances,
        sprites=tuple(Sprite(sprite.shape, sprite.radius * scale, sprite.colours) for sprite in sprites),
        tracks=tuple(scaled(track, scale) for track in tracks),
        background=background,
        calm=False,
        noise=config.noise,
        pan=quantize((pan + jitter) * scale, POSITION_BITS),
        drift=quantize(drift * scale, POSITION_BITS),
        seed=(*seed, 1),
    )


def _actor_path(random: np.random.Generator, times: Floats, number: int) -> Track:
    """Return an actor's path without its motions: each in its own half, with room to move."""
    home = (20 + 24 * number + between(random, -3, 3), between(random, 30, 42))
    return Track(
        x=home[0] + wander(random, times, 2.5, 1.8),
        y=home[1] + wander(random, times, 2.5, 1.8),
        angle=2 * np.pi * random.random() + wander(random, times, 4.0, 0.3),
        scale=np.exp(wander(random, times, 4.0, 0.05)),
        brightness=np.ones_like(times),
    )


def _still(times: Floats, x: float, y: float) -> Track:
    still, ones = np.zeros_like(times), np.ones_like(times)
    return Track(x=still + x, y=still + y, angle=still, scale=ones, brightness=ones)


def _passer_track(cues: tuple[Cue, ...], times: Floats, height: float) -> Track:
    """Return the passer's path: across the picture in a straight line during each cue, else outside."""
    track = _still(times, OUTSIDE, height)
    for cue in cues:
        part = (times - cue.start) / (cue.end - cue.start)
        across = -10 + (REFERENCE_SIZE + 20) * part
        if cue.direction == "left":
            across = REFERENCE_SIZE - across
        there = (part >= 0) & (part <= 1)
        track.x[there] = across[there]
        track.angle[there] = 0.0 if cue.direction == "right" else np.pi
    return track
