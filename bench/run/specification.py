"""What one run is, before it ran: its specification, and the id that follows from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from bench.config.overrides import override
from bench.config.presets import default_protocol
from bench.config.protocol import Protocol
from bench.detection.external_classifier import ClassScores, read_class_scores
from bench.io.errors import InputError
from bench.io.reading import file_sha256
from bench.models import SOURCE_WEIGHTS
from bench.records.identity import RunIdentity
from datasets import card_protocol, load_dataset
from datasets.annotations.dataset import Dataset
from strategies import build_strategy
from strategies.base import Strategy, settings


@dataclasses.dataclass(frozen=True)
class RunSpecification:
    """Everything a run's process is told; plain values only, so that it travels as JSON."""

    model: str
    strategy: str
    strategy_settings: dict[str, str]
    dataset: str
    data: str | None
    cache: str | None
    weights: str
    """``source`` (vit-t's shipped weights), ``random``, or the path of a checkpoint."""
    seed: int
    device: str
    protocol_changes: dict[str, str]
    results: str
    annotations: str | None = None
    """The annotations of a known data set, where they do not lie in ``data``."""
    force: bool = False
    """Try the run even if its forecast exceeds the device's memory."""
    keep_weights: bool = False
    """Write what training changed into the results' folder ``checkpoints``."""
    classifier: str | None = None
    """The path of the external classifier's scores that ``protocol_changes`` names."""
    frame_cache: float | None = None
    """GiB of decoded frames that are kept in memory; None for a quarter of what is free."""
    decoders: int | None = None
    """Videos that are decoded side by side; None for the machine's default."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints of the training (``bench.training.checkpoints.resume``)."""
    processes: int = 1
    """Processes that share every batch, each with a device of its own."""
    sharded: bool = False
    """Spread the blocks that train over the processes, with what their optimizer keeps."""

    def protocol(self) -> Protocol:
        """Return the model's protocol, with the subsets and tIoUs of a known data set, then what was set."""
        changes = {**card_protocol(self.dataset), **self.protocol_changes}
        return override(default_protocol(self.model, self.device), changes)

    def class_scores(self, dataset: Dataset) -> ClassScores | None:
        """Return the external classifier's scores of the videos that are evaluated; None without one.

        Raises InputError for a file that does not fit the data set or has changed since it was given.
        """
        if self.classifier is None:
            return None
        protocol = self.protocol()
        videos = [video.id for video in dataset.subset(protocol.evaluation_subset)]
        scores = read_class_scores(Path(self.classifier), videos, dataset.classes)
        if scores.name != protocol.classifier:
            raise InputError(f"{self.classifier}: is {scores.name}, the run is of {protocol.classifier}")
        return scores

    def build_strategy(self) -> Strategy:
        return build_strategy(self.strategy, self.strategy_settings)

    def load_dataset(self, progress: Callable[[int, int], None] | None = None) -> Dataset:
        """Return the data set; the miniature is generated if need be, telling ``progress`` of it."""
        given = (self.data, self.cache, self.annotations)
        data, cache, annotations = (Path(path) if path else None for path in given)
        return load_dataset(self.dataset, data, cache, annotations=annotations, progress=progress)

    def weights_path(self) -> Path | None:
        """Return the checkpoint's path, or None for random weights."""
        if self.weights == "random":
            return None
        if self.weights == "source":
            if self.model != "vit-t":
                raise InputError(
                    f"weights: none are shipped for {self.model}; "
                    "allowed are the path of its checkpoint and 'random'"
                )
            return SOURCE_WEIGHTS
        return Path(self.weights)


def run_id(spec: RunSpecification, dataset: Dataset) -> str:
    """Return a readable, path-safe name that no other run has."""
    path = spec.weights_path()
    return RunIdentity(
        model=spec.model,
        weights_sha256=file_sha256(path) if path else None,
        strategy=settings(spec.build_strategy()),
        dataset=(dataset.name, dataset.variant, dataset.sha256),
        protocol_digest=spec.protocol().digest(),
        device=spec.device,
        seed=spec.seed,
        processes=spec.processes,
        sharded=spec.sharded,
    ).run_id()
