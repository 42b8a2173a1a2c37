"""Inference on whole videos: sliding windows, decoding to seconds, soft-NMS over the video."""

from __future__ import annotations

import copy
import dataclasses
import gc
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from bench.config.protocol import Protocol
from bench.data.frame_store import FrameStore
from bench.data.windows import Window, window_mask
from bench.detection import ClassScores, fuse, soft_nms
from bench.features.cache import MEMORY_ONLY, EncodingCache, EncodingStorage
from bench.features.encode import ClipPasses, autocast
from bench.memory.meter import AllocatorPeaks, MemoryMeter, MemoryReading
from bench.models.actionformer.model import Outputs
from bench.models.random_state import random_state, set_random_state
from bench.training.detector import Detector
from bench.training.distributed.fsdp import local_shards
from bench.training.distributed.processes import ALONE, World
from bench.training.history import CurvePoint, TrainingHistory
from bench.training.optimizer import AveragedWeights
from datasets.sampling import windows as window_starts


@dataclasses.dataclass(frozen=True)
class VideoDetections:
    """Detections of one video after NMS: segments (n, 2) in seconds, scores (n,), class numbers (n,)."""

    video: str
    segments: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def classified(self, scores: ClassScores, top: int) -> VideoDetections:
        """Return the detections with the ``top`` best classes of an external classifier each."""
        return VideoDetections(self.video, *fuse(self.segments, self.scores, scores.scores[self.video], top))

    def entries(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Return the entries of a submission, rounded to milliseconds, and scores to five digits."""
        return [
            {
                "segment": [round(float(start), 3), round(float(end), 3)],
                "score": round(float(score), 5),
                "label": classes[int(label)],
            }
            for (start, end), score, label in zip(self.segments, self.scores, self.labels, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class CurveEvaluation:
    """Evaluates the detector during training, at fractions of its steps."""

    fractions: tuple[float, ...]
    """In (0, 1], of the steps of all stages."""
    evaluate: Callable[[Detector], float]
    """Returns the average mAP of a detector; it may change it."""
    device: torch.device
    warn: Callable[[str], None] = lambda line: print(line, file=sys.stderr)
    alone: bool = True
    """Whether this is the only process of the run."""

    def steps(self, total: int) -> frozenset[int]:
        """Return the numbers of completed steps after which the detector is evaluated."""
        return frozenset(max(1, round(fraction * total)) for fraction in self.fractions)

    def add_point(
        self, detector: Detector, average: AveragedWeights | None, stage: str, history: TrainingHistory
    ) -> None:
        """Evaluate a copy of ``detector``, with its averaged weights, and add the point to ``history``.

        Random generators keep their states. If the memory of a single process does not suffice, the point is
        dropped with a line; several processes would wait for each other.
        """
        started, state, step = time.perf_counter(), random_state(self.device), len(history.steps)
        try:
            found = self._evaluated_copy(detector, average)
        except (MemoryError, RuntimeError) as error:
            if not self.alone or not _is_memory_shortage(error):
                raise
            found = None
        # The peaks of later steps are without the copy, which may be part of reference cycles.
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        set_random_state(state, self.device)
        if found is None:
            history.dropped.append(step)
            self.warn(f"evaluation after step {step}: not enough memory; training goes on without it")
            return
        history.curve.append(
            CurvePoint(step, stage, *history.spent(step), found, time.perf_counter() - started)
        )

    def _evaluated_copy(self, detector: Detector, average: AveragedWeights | None) -> float:
        copied = copy.deepcopy(detector)
        if average:
            average.copy_to(copied)
        return self.evaluate(copied)


def _is_memory_shortage(error: Exception) -> bool:
    """Return whether an error says that memory of the device or of the host does not suffice."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


@torch.no_grad()
def window_outputs(
    detector: Detector, protocol: Protocol, cache: EncodingCache, window: Window, device: torch.device
) -> Outputs:
    """Return the head's outputs for a window, on ``device``."""
    mask = window_mask(window, cache.store.clips[window.video])[None].to(device)
    with autocast(device, protocol.precision):
        outputs: Outputs = detector.head(cache.features(window, mask), mask)
    return outputs


def detect(
    detector: Detector,
    store: FrameStore,
    protocol: Protocol,
    device: torch.device,
    cache: EncodingCache,
    name: str,
) -> VideoDetections:
    """Return the detections of the video ``name``."""
    clips, duration = store.clips[name], store.videos[name].duration
    grid = clips.grid
    length = clips.count if protocol.test_windows == "whole" else protocol.window_clips
    stride = max(1, round(length * (1 - protocol.window_overlap)))
    segments, scores, labels = [], [], []
    for start in window_starts(clips.count, length, stride):
        window = Window(name, start, length)
        found = detector.head.detections(window_outputs(detector, protocol, cache, window, device))[0]
        steps = found[0].astype(np.float64) + start * grid.steps_per_clip
        segments.append(np.asarray(grid.seconds(steps)).clip(0, duration))
        scores.append(found[1])
        labels.append(found[2])
    merged = soft_nms(
        np.concatenate(segments),
        np.concatenate(scores),
        np.concatenate(labels),
        **dataclasses.asdict(protocol.nms),
    )
    return VideoDetections(name, *map(np.asarray, merged))


def detect_all(
    detector: Detector,
    store: FrameStore,
    protocol: Protocol,
    device: torch.device,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
    storage: EncodingStorage = MEMORY_ONLY,
    world: World = ALONE,
) -> tuple[list[VideoDetections], MemoryReading | None]:
    """Return the detections of every video of ``store`` and the memory peak of the longest video.

    Every process of ``world`` processes some of the videos and returns all detections; a process without a
    video returns no peak.
    """
    detector.eval()
    results: list[VideoDetections] = []
    meter = MemoryMeter(device)
    passes = ClipPasses(protocol.frozen_clips, precision=protocol.precision)
    cache = EncodingCache(detector.backbone, store, passes, storage=storage)
    names = sorted(store.videos)[world.rank :: world.size]
    longest = max(names, key=lambda name: store.clips[name].count, default=None)
    # The longest first: its meter frees what training has left, and nothing is freed after a higher peak.
    names.sort(key=lambda name: name != longest)
    others = AllocatorPeaks(device)
    with detector.backbone.for_inference():
        for number, name in enumerate(names):
            if name == longest:
                # The backbone runs on it even if its encodings are on disk.
                watching = meter.watching(detector, parameters=local_shards(detector))
                with watching, meter.phase("inference"), cache.computing():
                    results.append(detect(detector, store, protocol, device, cache, name))
            else:
                with others.watching():
                    results.append(detect(detector, store, protocol, device, cache, name))
            # Each video is visited once: its encodings serve all of its windows and are then dropped.
            cache.drop(name)
            progress("inference", number + 1, len(names))
    merged = sorted(itertools.chain(*world.gather(results)), key=lambda found: found.video)
    return merged, others.added_to(meter.reading(), "inference") if names else None
