"""Write a backbone's features of videos to files in ActionFormer's layout: ``<id>.npy``, (T, D) float32."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.config.overrides import override
from bench.config.protocol import Protocol
from bench.data.feature_times import DESCRIPTION, FeatureTimes
from bench.data.frame_store import FrameStore
from bench.data.windows import Window, window_mask
from bench.features.cache import EncodingCache
from bench.features.encode import ClipPasses, autocast
from bench.io.errors import InputError
from bench.io.reading import read_json
from bench.io.writing import write_atomically
from bench.models.backbone import Backbone

FEATURE_PASS = 256
"""Clips per pass where clips are features, which need no computation."""
Settings = dict[str, Any]
"""What decides the values of exported features, as JSON values."""


@torch.no_grad()
def video_features(
    backbone: Backbone, store: FrameStore, protocol: Protocol, name: str, device: torch.device
) -> NDArray[np.float32]:
    """Return the features of all clips of a video, (T, D), as the head sees them in one window of them.

    T counts the steps of all clips; those after the video's end (``Clips.valid_steps``) show its last frame.
    """
    clips = store.clips[name]
    window = Window(name, 0, clips.count)
    cache = EncodingCache(backbone, store, ClipPasses(protocol.frozen_clips, precision=protocol.precision))
    mask = window_mask(window, clips)[None].to(device)
    with autocast(device, protocol.precision):
        features = cache.features(window, mask)
    return np.ascontiguousarray(features[0].float().cpu().numpy().T)


def export(
    folder: Path,
    settings: Settings,
    store: FrameStore,
    features_of: Callable[[str], NDArray[np.float32]],
    progress: Callable[[int], object] = lambda done: None,
) -> int:
    """Write the features of a store's videos and their description; return how many were written.

    Complete files of an export with the same settings are kept. ``progress`` receives the clips of a finished
    video. Raises InputError if the folder holds an export with other settings.
    """
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        describe(folder, settings, {name: clips.valid_steps for name, clips in sorted(store.clips.items())})
        written = 0
        for name in sorted(store.clips):
            path = folder / f"{name}.npy"
            if not path.is_file():
                content = io.BytesIO()
                np.save(content, features_of(name), allow_pickle=False)
                write_atomically(path, content.getvalue())
                written += 1
            progress(store.clips[name].count)
    return written


def describe(folder: Path, settings: Settings, steps: dict[str, int]) -> None:
    """Write the description, or add ``steps`` to one with the same settings.

    Raises InputError if the description in the folder has others, or if there are features without one.
    """
    path = folder / DESCRIPTION
    if path.is_file():
        stored = read_json(path)
        known = stored.pop("steps", None) if isinstance(stored, dict) else None
        if not isinstance(known, dict):
            raise InputError(f"{path}: is no description of features by bench.features")
        different = sorted(key for key in settings if stored.get(key) != settings[key])
        if different:
            others = ", ".join(different)
            raise InputError(f"--out: {folder} holds features of another {others}; give another folder")
        steps = {**known, **steps}
    elif next(folder.glob("*.npy"), None) is not None:
        raise InputError(f"--out: {folder} holds .npy files without {DESCRIPTION}; give another folder")
    write_atomically(path, json.dumps({**settings, "steps": steps}, indent=1).encode() + b"\n")


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Raise InputError in place of an OSError of writing to a folder."""
    try:
        yield
    except OSError as error:
        raise InputError(f"--out: {folder} cannot be written ({error.strerror})") from None


def feature_protocol(protocol: Protocol, backbone: Backbone, steps_per_clip: int) -> Protocol:
    """Return the protocol under which exported features replace the backbone, with equal results."""
    spread = protocol.resampling == "fixed"
    return dataclasses.replace(
        protocol,
        clip_frames=None if spread else backbone.geometry.clip_frames,
        clip_seconds=None,
        steps_per_clip=steps_per_clip,
        feature_width=backbone.geometry.width,
        augmentation="none",
        frozen_clips=FEATURE_PASS,
    )


def times_of(protocol: Protocol) -> FeatureTimes | None:
    """Return where features lie under a ``feature_protocol``; None if they are spread over the video."""
    frames, steps = protocol.clip_frames, protocol.steps_per_clip
    if frames is None or steps is None:
        return None
    return FeatureTimes(protocol.frames_per_second, frames / steps, (protocol.clip_stride or frames) / steps)


def protocol_text(protocol: Protocol, base: Protocol) -> str:
    """Return the fields in which a protocol differs from that of a run without ``--protocol``, for it."""
    fields, own = _flat(dataclasses.asdict(protocol)), _flat(dataclasses.asdict(base))
    # Of steps and epochs, one given alone replaces the other.
    always = ("steps", "epochs")
    text = {name: _text(value) for name, value in fields.items() if name in always or value != own[name]}
    assert override(base, text) == protocol
    return ",".join(f"{name}={value}" for name, value in text.items())


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(map(str, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
