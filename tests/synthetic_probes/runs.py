"""Train a detector on the training videos of `synthetic` and evaluate it on the tuning videos, in process."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import torch

from bench.config.overrides import override
from bench.config.presets import default_protocol
from bench.config.protocol import Protocol
from bench.data.frame_loader import FrameLoader
from bench.data.frame_store import open_store
from bench.data.windows import TrainingSampler
from bench.detection import diagnose, evaluate, soft_nms
from bench.detection.segments import Segments
from bench.models import FEATURES, shipped_weights
from bench.training.detector import build_detector
from bench.training.inference import VideoDetections, detect_all
from bench.training.loop import train
from bench.training.step import Trainer
from datasets.annotations.dataset import Dataset
from strategies import build_strategy

SUBSET = "tuning"
HOST = torch.device("cpu")


def protocol_of(**changes: str) -> Protocol:
    """Return the preset with changed fields, as text."""
    return override(default_protocol("vit-t", "cpu", "synthetic"), changes)


def trained_run(
    dataset: Dataset, strategy: str, protocol: Protocol, seed: int, source: int = 0
) -> dict[str, Any]:
    """Train with one seed and source checkpoint; return the measurements on tuning videos, in percent."""
    name = FEATURES if dataset.features else "vit-t"
    weights = None if dataset.features else shipped_weights(f"source-{source}", "synthetic")
    chosen = build_strategy(strategy, {})
    detector, fresh_head, _ = build_detector(name, weights, chosen, protocol, len(dataset.classes), seed)
    geometry, loader = detector.backbone.geometry, FrameLoader(2 << 30, 1)
    training, tuning = (
        open_store(dataset, each, protocol, geometry, loader) for each in ("training", SUBSET)
    )
    started = time.process_time()
    sampler = TrainingSampler(training, protocol, dataset.classes, seed)
    train(Trainer(detector, protocol, sampler, HOST), chosen.stages(), fresh_head)
    seconds = time.process_time() - started
    found, _ = detect_all(detector, tuning, protocol, HOST)
    measured = measurements(dataset, protocol, found)
    return {
        "strategy": strategy,
        "seed": seed,
        "source": source,
        "steps": protocol.steps,
        "cpu_seconds": round(seconds, 1),
        **measured,
    }


def measurements(dataset: Dataset, protocol: Protocol, found: list[VideoDetections]) -> dict[str, Any]:
    """Return mAP, AP by class, class-agnostic AP and the gains of error removal, in percent.

    For the class-agnostic AP all labels are made one and the detections of a video merged by soft-NMS again.
    """
    videos = dataset.subset(SUBSET)
    truth = _segments([(v.id, i.label, i.start, i.end, 0.0) for v in videos for i in v.instances])
    truth = dataclasses.replace(truth, score=None)
    detections = _segments(
        [
            (each.video, dataset.classes[int(label)], start, end, score)
            for each in found
            for (start, end), score, label in zip(each.segments, each.scores, each.labels, strict=True)
        ]
    )
    merged = []
    for each in found:
        labels = np.zeros(len(each.scores), dtype=np.int64)
        nms = soft_nms(each.segments, each.scores, labels, **dataclasses.asdict(protocol.nms))
        merged += [(each.video, "", *bounds, score) for bounds, score in zip(nms[0], nms[1], strict=True)]
    nameless = dataclasses.replace(truth, label=np.full(len(truth), ""))
    result = evaluate(truth, detections, protocol.tiou)
    gain = {
        kind: _percent(value) for kind, value in diagnose(truth, detections, protocol.tiou)["gain"].items()
    }
    return {
        "mAP": _percent(result.average),
        "AP": {name: _percent(row.mean()) for name, row in zip(result.classes, result.ap, strict=True)},
        "class_agnostic_AP": _percent(evaluate(nameless, _segments(merged), protocol.tiou).average),
        "gain": gain,
        "localization_and_background": _percent(
            (gain["localization"] + gain["background"]) / sum(gain.values())
        ),
    }


def _segments(rows: list[Any]) -> Segments:
    video, label, start, end, score = (np.array(column) for column in zip(*rows, strict=True))
    return Segments(video=video, label=label, start=start, end=end, score=score)


def _percent(value: float) -> float:
    return round(100 * float(value), 1)
