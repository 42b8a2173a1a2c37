"""The detector of a checkpoint, applied to one video after another."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import torch

from bench.data.frame_loader import FrameLoader, default_cache_bytes, default_workers
from bench.data.frame_store import open_store
from bench.predict.segments import Segment
from bench.training.checkpoints.export import Checkpoint, restore
from bench.training.inference import detect_all
from datasets.annotations.dataset import Dataset, Video
from datasets.video import readers_used
from datasets.video.frames import VideoInfo, source_sha256
from strategies.base import settings


class VideoDetector:
    """A checkpoint's detector on a device; ``find`` returns the segments of a video."""

    def __init__(self, checkpoint: Checkpoint, weights: Path | None, device_name: str) -> None:
        """Restore the detector; raise InputError if the weights do not match the checkpoint."""
        self.checkpoint, self.device, note = checkpoint, torch.device(device_name), checkpoint.note
        if self.device.type == "cpu":
            # As in bench.run: a CPU takes thirty times as long in bfloat16.
            protocol = dataclasses.replace(note.protocol, precision="float32")
            note = dataclasses.replace(note, protocol=protocol)
        self.note = note
        torch.set_num_threads(note.protocol.threads)
        self.detector = restore(checkpoint, weights, note).to(self.device)

    def find(self, video: Path, info: VideoInfo) -> tuple[list[Segment], dict[str, Any]]:
        """Return the segments of a video, best first, and their provenance as JSON values.

        Raises InputError if the video cannot be decoded.
        """
        note, protocol = self.note, self.note.protocol
        own = Video(video.stem, "own", info.duration, (), video.name, info.frames_per_second)
        sha256 = source_sha256(video)
        dataset = Dataset("own", "own", note.classes, (own,), sha256, video, video.parent)
        loader = FrameLoader(default_cache_bytes(), default_workers(self.device.type))
        with contextlib.closing(loader):
            store = open_store(dataset, "own", protocol, self.detector.backbone.geometry, loader)
            found, _ = detect_all(self.detector, store, protocol, self.device)
        segments = [
            Segment(start, end, each["label"], each["score"])
            for each in found[0].entries(note.classes)
            for start, end in [each["segment"]]
        ]
        origin = {
            "run": note.run,
            "checkpoint_sha256": self.checkpoint.sha256,
            "model": note.model,
            "weights": dataclasses.asdict(note.weights),
            "strategy": settings(note.strategy),
            "trained_on": note.dataset,
            "seed": note.seed,
            "protocol": self.checkpoint.note.protocol.digest(),
            "classifier": protocol.classifier,
            "precision": protocol.precision,
            "device": self.device.type,
            "video": {
                "file": video.name,
                "sha256": sha256,
                "seconds": info.duration,
                "reader": readers_used(video),
            },
        }
        return segments, origin
