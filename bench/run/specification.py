"""Specification of one run in plain values, and the run resolved from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.config.digest import TUNED_FIELDS
from bench.config.overrides import layered, override
from bench.config.presets import default_protocol
from bench.config.protocol import Protocol
from bench.detection.external_classifier import ClassScores, read_class_scores
from bench.io.errors import InputError
from bench.io.reading import file_sha256
from bench.models import FEATURES, SHIPPED_NAMES, shipped_weights
from bench.records.identity import RunIdentity
from datasets import card_protocol, load_dataset, load_features
from datasets.annotations.dataset import Dataset
from datasets.cards.cards import fields_without_recipe, tuning_subset
from datasets.recipes.recipes import Recipe, chosen_recipe
from strategies import build_strategy
from strategies.base import Strategy, settings


@dataclasses.dataclass(frozen=True)
class RunSpecification:
    """Configuration of one run. Plain values only, so that it can be sent to a process as JSON."""

    model: str
    strategy: str
    strategy_settings: dict[str, str]
    dataset: str
    data: str | None
    cache: str | None
    weights: str
    """``random``, ``features`` (none), the path of a checkpoint, or a name of shipped weights
    (``bench.models.shipped_weights``)."""
    seed: int
    device: str
    protocol_changes: dict[str, str]
    results: str
    annotations: str | None = None
    """Path of the annotations of a known data set, if they are not in ``data``."""
    force: bool = False
    """Start the run even if the forecast exceeds the device's memory."""
    keep_weights: bool = False
    """Save the parameters that training changed to the folder ``checkpoints`` of the results."""
    classifier: str | None = None
    """Path of the scores of the external classifier named in ``protocol_changes``."""
    frame_cache: float | None = None
    """Size of the in-memory cache of decoded frames in GiB; None for a quarter of the free memory."""
    encoding_cache: float | None = None
    """Size of the in-memory cache of encodings in GiB; None for a quarter of the free memory."""
    runs_in_parallel: int = 1
    """Number of runs that share this machine's free memory."""
    decoders: int | None = None
    """Number of videos decoded in parallel; None for the machine's default."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints of the training (``bench.training.checkpoints.resume``)."""
    processes: int = 1
    """Number of processes that every batch is split over, each with its own device."""
    sharded: bool = False
    """Shard the trainable blocks and their optimizer state over the processes."""
    recipe: str | None = None
    """Name of the recipe; None for the data set's default, ``none`` for no recipe."""
    evaluate_at: list[float] | None = None
    """Fractions of the steps at which the detector is evaluated on the tuning videos; None: the default."""
    tuning: dict[str, Any] | None = None
    """Trials of the file of choices that ``strategy_settings`` come from, for the record."""

    def find_recipe(self) -> Recipe | None:
        """Return the recipe; raise InputError for an unknown name."""
        return chosen_recipe(self.recipe, self.dataset, self.model)

    def changes(self) -> dict[str, str]:
        """Return the fields in which the protocol differs from the model's default, as text.

        Those of the recipe, replaced by the card's subsets and tIoUs, replaced by ``protocol_changes``,
        replaced by those of ``strategy_settings`` that are tuned for each strategy (``TUNED_FIELDS``).
        """
        recipe, classified = self.find_recipe(), "classifier" in self.protocol_changes
        fields = (
            recipe.changes(self.device, classifier=classified)
            if recipe
            else fields_without_recipe(self.dataset)
        )
        tuned = {name: text for name, text in self.strategy_settings.items() if name in TUNED_FIELDS}
        return layered(fields, card_protocol(self.dataset), self.protocol_changes, tuned)

    def protocol(self) -> Protocol:
        """Return the protocol; ``steps`` is 0 if it follows from the data set's number of videos."""
        return override(default_protocol(self.model, self.device, self.dataset), self.changes())

    def settings(self) -> dict[str, str]:
        """Return the strategy's fields as text: those of the recipe, replaced by ``strategy_settings``."""
        recipe = self.find_recipe()
        own = {name: text for name, text in self.strategy_settings.items() if name not in TUNED_FIELDS}
        return {**(recipe.settings(self.strategy, self.model) if recipe else {}), **own}

    def build_strategy(self) -> Strategy:
        return build_strategy(self.strategy, self.settings())

    def load_dataset(self, progress: Callable[[int, int], None] | None = None) -> Dataset:
        """Return the data set; an embedded one is generated if missing, and reports to ``progress``."""
        given = (self.data, self.cache, self.annotations)
        data, cache, annotations = (Path(path) if path else None for path in given)
        load = load_features if self.model == FEATURES else load_dataset
        return load(self.dataset, data, cache, annotations=annotations, progress=progress)

    def weights_path(self) -> Path | None:
        """Return the checkpoint's path, or None for random weights and for features."""
        if self.weights in ("random", FEATURES):
            return None
        if self.weights in SHIPPED_NAMES:
            if self.model != "vit-t":
                raise InputError(
                    f"weights: none are shipped for {self.model}; "
                    "allowed are the path of its checkpoint and 'random'"
                )
            return shipped_weights(self.weights, self.dataset)
        return Path(self.weights)


EVALUATED_AT = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""Default fractions of a run's steps at which it is evaluated on tuning videos."""


def strategy_entry(strategy: Strategy, protocol: Protocol) -> dict[str, Any]:
    """Return name and fields of a strategy, and what is tuned beside them, if not default."""
    return {**settings(strategy), **protocol.tuned()}


@dataclasses.dataclass(frozen=True)
class ResolvedRun:
    """One run with resolved settings: text is parsed and the weights are hashed on creation."""

    spec: RunSpecification
    dataset: Dataset
    protocol: Protocol
    """The protocol, with ``steps`` for the data set's training videos."""
    strategy: Strategy
    weights: Path | None
    """The checkpoint of the backbone; None for random weights and for features."""
    weights_sha256: str | None
    """SHA-256 of the checkpoint, or of samples of the features (``features_sha256``)."""
    id: str
    """Unique, readable and path-safe name of the run."""

    @property
    def results(self) -> Path:
        """The folder of results."""
        return Path(self.spec.results)

    def curve_fractions(self) -> tuple[str, tuple[float, ...]]:
        """Return the subset of tuning videos, and the fractions of the steps at which it is evaluated.

        Raises InputError if fractions were given and the run cannot be evaluated so.
        """
        wanted, spec = self.spec.evaluate_at, self.spec
        subset = tuning_subset(spec.dataset)
        problem = None
        if not any(video.subset == subset for video in self.dataset.videos):
            problem = f"the data set has no videos of a subset '{subset}'"
        elif spec.classifier is not None:
            problem = "an external classifier has scores of the evaluated videos only"
        elif spec.sharded:
            problem = "a sharded detector is not copied"
        if wanted is None:
            return subset, () if problem else EVALUATED_AT
        if wanted and problem:
            raise InputError(f"--evaluate-at: {problem}; allowed is none")
        return subset, tuple(wanted)

    @property
    def strategy_entry(self) -> dict[str, Any]:
        """The record's field ``strategy`` (``strategy_entry``)."""
        return strategy_entry(self.strategy, self.protocol)

    @property
    def title(self) -> str:
        """Strategy and seed, for messages."""
        return f"{self.spec.strategy} seed {self.spec.seed}"

    def with_protocol(self, changes: Mapping[str, str]) -> ResolvedRun:
        """Return the run with further protocol fields set from text."""
        spec = dataclasses.replace(self.spec, protocol_changes={**self.spec.protocol_changes, **changes})
        return _resolved(spec, self.dataset, self.weights, self.weights_sha256)

    def beside(self, runs_in_parallel: int) -> ResolvedRun:
        """Return the run as one of so many in parallel."""
        return dataclasses.replace(
            self, spec=dataclasses.replace(self.spec, runs_in_parallel=runs_in_parallel)
        )

    def class_scores(self) -> ClassScores | None:
        """Return the external classifier's scores of the evaluated videos; None without a classifier.

        Raises InputError for a file that does not match the data set or was changed in the meantime.
        """
        if self.spec.classifier is None:
            return None
        videos = [video.id for video in self.dataset.subset(self.protocol.evaluation_subset)]
        scores = read_class_scores(Path(self.spec.classifier), videos, self.dataset.classes)
        if scores.name != self.protocol.classifier:
            raise InputError(
                f"{self.spec.classifier}: is {scores.name}, the run is of {self.protocol.classifier}"
            )
        return scores


def with_steps(protocol: Protocol, dataset: Dataset) -> Protocol:
    """Return the protocol with ``steps`` for the data set's training videos."""
    return protocol.with_steps(sum(video.subset == protocol.training_subset for video in dataset.videos))


def resolve_runs(specs: Iterable[RunSpecification], dataset: Dataset) -> list[ResolvedRun]:
    """Return the runs of ``specs`` on ``dataset``; every weights file is hashed once.

    Raises InputError for an invalid setting or for weights that cannot be read.
    """
    hashes: dict[Path | None, str] = {}
    runs = []
    for spec in specs:
        path = spec.weights_path()
        if path not in hashes and (path or dataset.features):
            hashes[path] = file_sha256(path) if path else _features_sha256(spec, dataset)
        runs.append(_resolved(spec, dataset, path, hashes.get(path)))
    return runs


def _features_sha256(spec: RunSpecification, dataset: Dataset) -> str:
    from bench.data.feature_files import features_sha256

    protocol = spec.protocol()
    return features_sha256(dataset, (protocol.training_subset, protocol.evaluation_subset))


def resolve_run(spec: RunSpecification, dataset: Dataset) -> ResolvedRun:
    """Return one resolved run; see ``resolve_runs``."""
    return resolve_runs([spec], dataset)[0]


def _resolved(
    spec: RunSpecification, dataset: Dataset, weights: Path | None, weights_sha256: str | None
) -> ResolvedRun:
    protocol, strategy = with_steps(spec.protocol(), dataset), spec.build_strategy()
    identity = RunIdentity(
        model=spec.model,
        weights_sha256=weights_sha256,
        strategy=strategy_entry(strategy, protocol),
        dataset=(dataset.name, dataset.variant, dataset.sha256),
        protocol_digest=protocol.digest(),
        device=spec.device,
        seed=spec.seed,
        processes=spec.processes,
        sharded=spec.sharded,
    )
    return ResolvedRun(spec, dataset, protocol, strategy, weights, weights_sha256, identity.run_id())
