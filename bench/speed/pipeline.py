"""Timings of the frame reader, the encoding cache, and the start of commands."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bench.io import PROJECT_ROOT
from bench.speed import Inputs, Measurement, seconds_of

if TYPE_CHECKING:
    import numpy as np

    from bench.data.windows import TrainingSampler
    from bench.features.cache import EncodingCache
    from bench.training.step import Trainer


def caching(inputs: Inputs) -> list[Measurement]:
    """Time an epoch of the miniature with cached encodings, and one that encodes again."""
    import torch

    from bench.data.frame_loader import FrameLoader, default_cache_bytes
    from bench.data.frame_store import open_store
    from bench.data.windows import TrainingSampler
    from bench.memory.meter import NoMeter
    from bench.run.specification import RunSpecification, resolve_run
    from bench.training.detector import build_detector
    from bench.training.step import StageSetup, Trainer, setup_stage
    from strategies.base import FULL

    torch.set_num_threads(1)
    rows = []
    for name in ("head-only", "losa"):
        spec = RunSpecification(
            *("vit-t", name, {}, "miniature", None, str(inputs.cache) if inputs.cache else None),
            *("source", 0, "cpu", {}, "unused"),
        )
        run = resolve_run(spec, spec.load_dataset())
        protocol, dataset, strategy = run.protocol, run.dataset, run.strategy
        chosen = dataset.subset(protocol.training_subset)[: max(2, round(24 * inputs.scale))]
        dataset = dataclasses.replace(dataset, videos=chosen)
        classes = len(dataset.classes)
        detector, _, _ = build_detector("vit-t", run.weights, strategy, protocol, classes, 0)
        loader = FrameLoader(default_cache_bytes())
        store = open_store(dataset, protocol.training_subset, protocol, detector.backbone.geometry, loader)
        sampler = TrainingSampler(store, protocol, dataset.classes, 0)
        trainer = Trainer(detector, protocol, sampler, torch.device("cpu"))
        setup = setup_stage(trainer, strategy.stages()[0])
        kept, bypass = setup.cache, setup.uncached
        assert kept is not None
        assert bypass is not None
        epoch = range(sampler.steps_per_epoch)

        def train(
            cache: EncodingCache, trainer: Trainer = trainer, setup: StageSetup = setup, epoch: range = epoch
        ) -> None:
            for step in epoch:
                trainer.step(step, FULL, cache, setup.optimizer, NoMeter())

        def encode(cache: EncodingCache, sampler: TrainingSampler = sampler, epoch: range = epoch) -> None:
            for step in epoch:
                cache.batch(sampler.windows(step), torch.device("cpu"))

        train(kept)  # fills the cache
        taken = {
            (what, way): seconds_of(functools.partial(action, held), 2)
            for what, action in (("encodings", encode), ("whole steps", train))
            for way, held in (("cached", kept), ("again", bypass))
        }
        for what, bar in (("encodings", 10.0), ("whole steps", None)):
            again, cached = taken[what, "again"], taken[what, "cached"]
            note = f"{again:.2f} s against {cached:.3f} s for {len(chosen)} videos"
            rows.append(
                Measurement("cache", f"{name}, an epoch's {what}", again / max(cached, 1e-6), "x", bar, note)
            )
    return rows


def loading(inputs: Inputs) -> list[Measurement]:
    """Time the reader against decord's sequential decoding of the same file, in frames per second.

    Uses wall time, as the reader decodes in a separate process; the two alternate, and the minimum counts.
    """
    import decord
    import numpy as np

    from datasets import load_dataset, video_path
    from datasets.video.frames import probe, read_frames

    dataset = load_dataset("miniature", None, inputs.cache)
    paths = [video_path(dataset, dataset.videos[0])]
    paths += inputs.files("videos", "*.mp4") if inputs.scale == 1 else []
    rows = []
    for path in paths:
        info = probe(path)
        times = (np.arange(info.frames) + 0.5) / info.frames_per_second

        def bare(path: Path = path, frames: int = info.frames) -> None:
            reader = decord.VideoReader(str(path), num_threads=1)
            for _ in range(frames):
                reader.next().asnumpy()

        def ours(path: Path = path, times: np.ndarray = times) -> None:
            read_frames(path, times)

        taken: dict[Callable[[], None], list[float]] = {ours: [], bare: []}
        for action in (ours, bare) * 8:
            started = time.perf_counter()
            action()
            taken[action].append(time.perf_counter() - started)
        ratio = min(taken[bare]) / min(taken[ours])
        note = f"{info.frames / min(taken[ours]):.0f} frames/s of {info.width} x {info.height}"
        name = "a video of the miniature" if path == paths[0] else path.name
        rows.append(Measurement("loader", f"over bare decoding, {name}", ratio, "x", 0.8, note))
    return rows


def starting(inputs: Inputs) -> list[Measurement]:
    """Measure the wall time of every command with ``--help``, the minimum of three."""
    from bench.__main__ import COMMANDS

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    rows = []
    for command in COMMANDS if inputs.scale == 1 else list(COMMANDS)[:1]:
        taken = []
        for _ in range(3):
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", f"bench.{command}", "--help"],
                cwd=PROJECT_ROOT,
                env=environment,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            taken.append(time.perf_counter() - started)
        rows.append(Measurement("start", f"python -m bench.{command} --help", min(taken), "s", 1.0))
    return rows
