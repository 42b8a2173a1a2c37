"""The evaluation on tuning videos during training, for the curve of mAP over steps in a run's record."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import torch

from bench.config.protocol import Protocol
from bench.data.frame_store import FrameStore
from bench.detection import evaluate
from bench.detection.segments import Segments, table_of
from bench.features.cache import EncodingCache, EncodingStorage
from bench.features.encode import ClipPasses
from bench.run.specification import ResolvedRun
from bench.training.detector import Detector
from bench.training.distributed.processes import World
from bench.training.inference import CurveEvaluation, VideoDetections, detect
from datasets.annotations.dataset import Video

Progress = Callable[[str, int, int], None]
PHASE = "tuning videos"


@dataclasses.dataclass(frozen=True)
class Inference:
    """What inference needs besides the detector and the videos."""

    protocol: Protocol
    device: torch.device
    storage: EncodingStorage
    world: World
    progress: Progress
    warn: Callable[[str], None]

    def detections(self, detector: Detector, store: FrameStore) -> list[VideoDetections]:
        """Return the detections of every video of ``store``; every process computes some of them.

        As ``bench.training.inference.detect_all``, without the memory meter.
        """
        detector.eval()
        passes = ClipPasses(self.protocol.frozen_clips, precision=self.protocol.precision)
        cache = EncodingCache(detector.backbone, store, passes, storage=self.storage)
        names, found = sorted(store.videos)[self.world.rank :: self.world.size], []
        with detector.backbone.for_inference():
            for number, name in enumerate(names):
                found.append(detect(detector, store, self.protocol, self.device, cache, name))
                cache.drop(name)
                self.progress(PHASE, number + 1, len(names))
        return sorted(itertools.chain(*self.world.gather(found)), key=lambda each: each.video)


def curve_evaluation(
    run: ResolvedRun, store_of: Callable[[str], FrameStore], inference: Inference
) -> CurveEvaluation | None:
    """Return the evaluation of a run during its training; None without one. ``store_of`` opens a subset.

    Detections are rounded as in a submission, so that the mAP is that of a run evaluated on these videos.
    """
    subset, fractions = run.curve_fractions()
    if not fractions:
        return None
    store = store_of(subset)
    wanted = table_of_instances(run.dataset.subset(subset))
    tious = run.protocol.tiou

    def average_map(detector: Detector) -> float:
        found = inference.detections(detector, store)
        return evaluate(wanted, table_of_detections(found, run.dataset.classes), tious).average

    alone = inference.world.size == 1
    return CurveEvaluation(fractions, average_map, inference.device, inference.warn, alone)


def table_of_instances(videos: Sequence[Video]) -> Segments:
    """Return the instances of some videos as a table."""
    rows = [(video.id, each.label, each.start, each.end, 0.0) for video in videos for each in video.instances]
    return table_of(rows, scored=False)


def table_of_detections(found: Sequence[VideoDetections], classes: Sequence[str]) -> Segments:
    """Return detections as a table, rounded as in a submission."""
    rows = [
        (each.video, entry["label"], *entry["segment"], entry["score"])
        for each in found
        for entry in each.entries(classes)
    ]
    return table_of(rows, scored=True)
