"""Head-only on the frozen features, without and with the direction of the last cue as two more channels.

A control has the same channels with a random direction for each cue.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.frame_loader import FrameLoader
from bench.data.frame_store import open_store
from bench.features.export import feature_protocol, video_features
from bench.models import build_backbone, shipped_weights
from datasets.annotations.dataset import Dataset
from datasets.synthetic.config import SyntheticConfig
from datasets.synthetic.scenes import target_timeline
from datasets.synthetic.timeline import DIRECTIONS, Cue
from tests.synthetic_probes.runs import HOST, protocol_of, trained_run

CHANNELS = {"without": 0, "with": 2, "random": 2}
"""Further channels of the features, by their name."""


def write_features(dataset: Dataset, folder: Path, source: int) -> None:
    """Write the features of training and tuning videos below `folder`, for each of `CHANNELS`.

    The random directions do not depend on the order of the videos.
    """
    protocol, weights = protocol_of(), shipped_weights(f"source-{source}", "synthetic")
    backbone = build_backbone("vit-t", weights).eval()
    for name in CHANNELS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for subset in ("training", "tuning"):
        store = open_store(dataset, subset, protocol, backbone.geometry, FrameLoader(2 << 30, 1))
        for name, clips in store.clips.items():
            values = video_features(backbone, store, protocol, name, HOST)[: clips.valid_steps]
            cues = target_timeline(SyntheticConfig(), subset, int(name.rpartition("_")[2]))[1].cues
            rate = protocol.frames_per_second
            added = {"with": cues, "random": random_directions(cues, name)}
            np.save(folder / "without" / f"{name}.npy", values)
            for key, shown in added.items():
                channels = cue_channels(shown, len(values), rate)
                np.save(folder / key / f"{name}.npy", np.concatenate([values, channels], axis=1))


def head_only_run(dataset: Dataset, folder: Path, name: str, steps: int, seed: int) -> dict[str, Any]:
    """Train the head for `steps` on the features below `folder` of a name of `CHANNELS`."""
    protocol, backbone = protocol_of(steps=str(steps)), build_backbone("vit-t")
    target = feature_protocol(protocol, backbone, backbone.geometry.steps_per_clip)
    target = dataclasses.replace(target, feature_width=backbone.geometry.width + CHANNELS[name])
    features = dataclasses.replace(dataset, root=folder / name, features=True)
    return trained_run(features, "head-only", target, seed)


def random_directions(cues: tuple[Cue, ...], video: str) -> tuple[Cue, ...]:
    """Return the cues with directions drawn for this video, independent of what it shows."""
    rng = np.random.default_rng(list(video.encode()))
    drawn = rng.choice(DIRECTIONS, len(cues))
    return tuple(dataclasses.replace(cue, direction=str(each)) for cue, each in zip(cues, drawn, strict=True))


def cue_channels(cues: tuple[Cue, ...], steps: int, rate: float) -> np.ndarray:
    """Return (steps, 2) float32: from a cue's end, plus and minus 2 by its direction; 0 before the first.

    2 is twice the root mean square of the other channels. The head made no use of channels of 0 and 1; with
    plus and minus 4, one of two runs diverged.
    """
    times = (np.arange(steps) + 0.5) * 2 / rate
    channels = np.zeros((steps, 2), dtype=np.float32)
    for cue in cues:
        later = times >= cue.end
        channels[later] = (2, -2) if cue.direction == "left" else (-2, 2)
    return channels
