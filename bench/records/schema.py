"""Schema of run records: the fields that tables, figures and checks need.

The types describe the fields that the program uses; other fields are allowed and kept. Constraints that the
types cannot express are in ``check_fields``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from bench.detection.diagnosis import KINDS, MULTIPLES
from bench.io.errors import InputError
from bench.io.typed_values import (
    A_LIST,
    LIST,
    MAX_ENTRIES,
    TABLE,
    Counts,
    Fraction,
    Label,
    Name,
    Number,
    Positive,
    Real,
    Sha256,
    Text,
    Whole,
    fail,
    structure,
)

SCHEMA = 1
STATUSES = ("ok", "out-of-memory", "nan", "timeout", "error", "cancelled", "unsupported")


class Named(Struct):
    """A strategy's name; its settings are further fields of the same object."""

    name: Name


class Dataset(Struct):
    """The data set, with its counts and the digests of the decoded frames."""

    name: Label
    variant: Label
    annotation_sha256: Sha256
    videos: Counts | UnsetType = UNSET
    instances: Counts | UnsetType = UNSET
    pictures_sha256: Annotated[dict[str, Sha256], TABLE] | None = None


class Protocol(Struct):
    """The protocol: fixed settings shared by all strategies."""

    digest: Name
    tiou: Annotated[
        list[Fraction], Meta(min_length=1, max_length=100, description="a list of 1 to 100 entries")
    ]
    evaluation_subset: Name
    steps: Positive | UnsetType = UNSET
    window_clips: Positive | UnsetType = UNSET
    image_size: Positive | UnsetType = UNSET
    batch_size: Positive | UnsetType = UNSET
    backward: Name | UnsetType = UNSET
    precision: Name | UnsetType = UNSET
    classifier: Name | None = None
    classifier_top: Positive | UnsetType = UNSET


class Recipe(Struct):
    """The recipe: its name, the protocol fields that were changed, and the strategy's fields from it."""

    name: Name
    changed: Annotated[list[Name], LIST] = msgspec.field(default_factory=list)
    settings: Annotated[dict[str, Any], TABLE] = msgspec.field(default_factory=dict)


class Weights(Struct):
    """The pre-trained weights; random weights have no digest."""

    name: Name
    sha256: Sha256 | None
    group: Name | None = None
    """Checkpoints that differ only in the seed of their pre-training have one group."""


class Tuned(Struct):
    """How the strategy's settings were chosen: trials of each strategy, their digest, what was chosen."""

    trials: Positive
    digest: Sha256
    settings: Annotated[dict[str, str], TABLE]


class Environment(Struct):
    """The environment of the run, as far as it is known."""

    device: Label | UnsetType = UNSET
    device_type: Label | UnsetType = UNSET
    commit: Label | None = None
    processor: Annotated[dict[str, Label | None], TABLE] | UnsetType = UNSET


class Parallel(Struct, forbid_unknown_fields=True):
    """Number of processes, and whether the model was sharded over them."""

    processes: Positive
    sharded: bool


class Forecast(Struct):
    """The forecast that was made before the run."""

    predicted_peak_bytes: Positive | None = None


class Started(Struct):
    """Fields required in every record."""

    schema: Annotated[int, Meta(ge=SCHEMA, le=SCHEMA, description=str(SCHEMA))]
    id: Name
    status: Annotated[
        str, Meta(pattern=rf"\A({'|'.join(STATUSES)})\Z", description=f"one of {', '.join(STATUSES)}")
    ]
    phase: Name | None
    message: Text | None
    model: Name
    strategy: Named
    dataset: Dataset
    protocol: Protocol
    seed: Whole
    metrics: dict[str, Any] | None
    memory: dict[str, Any] | None
    cost: dict[str, Any] | None
    weights: Weights
    environment: Environment
    parallel: Parallel | UnsetType = UNSET
    forecast: Forecast | None = None
    recipe: Recipe | None = None
    tuning: Tuned | None = None


class Fidelity(Struct):
    """Fractions of the snippets (temporal) and of the frames' side length (spatial)."""

    temporal: Fraction
    spatial: Fraction


class Metrics(Struct):
    """Mean average precision at each tIoU, and its average over tIoUs."""

    map: Annotated[dict[str, Fraction], TABLE]
    map_average: Fraction


class Stage(Struct):
    """A stage's fidelity, and the peak memory of its steps."""

    stage: Name
    fidelity: Fidelity
    peak_allocated_bytes: Whole
    step: Name | UnsetType = UNSET


class Inference(Struct):
    """Peak memory of the evaluation, measured and predicted."""

    peak_allocated_bytes: Whole
    predicted_peak_bytes: Positive | None = None


class Memory(Struct):
    """Measured peaks, and the predicted peak."""

    peak_allocated_bytes: Positive
    inference: Inference
    predicted_peak_bytes: Positive | None = None
    step: Name | UnsetType = UNSET
    kinds: Counts | UnsetType = UNSET
    device_source: Name | None = None
    stages: Annotated[list[Stage], LIST] | UnsetType = UNSET


class Cost(Struct):
    """Time and parameter counts of the run; processor seconds are those of the training process."""

    seconds_per_step: Number | None
    trainable_parameters: Whole
    cpu_seconds_per_step: Number | None = None
    wall_seconds: Number | UnsetType = UNSET


class Step(Struct):
    """An entry of the schedule: the fidelity from a step on."""

    first_step: Whole
    fidelity: Fidelity


class Learned(Struct):
    """Learned gates of an adapter, by range: layer numbers and gate openings."""

    gates: Annotated[dict[str, Annotated[list[tuple[Whole, Number]], LIST]], TABLE] | UnsetType = UNSET


class CurvePoint(Struct):
    """Average mAP on tuning videos after a step, and the seconds of all steps so far, without encodings."""

    step: Positive
    stage: Name
    seconds: Number
    processor_seconds: Number
    map_average: Fraction


class Tuning(Struct):
    """The evaluations on tuning videos during training, and the steps at which memory did not suffice."""

    subset: Name
    points: Annotated[list[CurvePoint], LIST]
    dropped_steps: Annotated[list[Positive], LIST] = []


class Training(Struct):
    """Loss curve (step and two losses per point), schedule, learned values, mAP on tuning videos."""

    loss: Annotated[
        list[tuple[Number, Number, Number]],
        Meta(min_length=1, max_length=MAX_ENTRIES, description=A_LIST.format(1)),
    ]
    schedule: Annotated[list[Step], LIST] | UnsetType = UNSET
    learned: Learned | None = None
    tuning: Tuning | None = None


def _by_kind(kinds: tuple[str, ...], kind: Any, others: Mapping[str, Any]) -> Any:
    """Return the type of an object with a field for each kind of detection, and the fields ``others``."""
    fields = [(each.replace(" ", "_"), kind, msgspec.field(name=each)) for each in kinds]
    return msgspec.defstruct("ByKind", [*others.items(), *fields])


FalsePositives: Any = _by_kind(KINDS, Number, {"detections": Whole})
Gain: Any = _by_kind(KINDS[1:], Real, {})


class Missed(Struct):
    """Number of instances in a length group, and the fraction of them that was missed."""

    instances: Whole
    missed: Fraction | None = None


class FalseNegatives(Struct):
    """Missed instances, in total and by length."""

    all: Missed
    length_seconds: Annotated[dict[str, Missed], TABLE]


class Diagnosis(Struct):
    """Error diagnosis of the detections (``bench.detection.diagnosis``)."""

    false_positives: Annotated[
        list[FalsePositives],
        Meta(min_length=MULTIPLES, max_length=MAX_ENTRIES, description=A_LIST.format(MULTIPLES)),
    ]
    gain: Gain
    false_negatives: FalseNegatives


class Finished(Started, kw_only=True):
    """Fields required in the record of a run with status ok."""

    metrics: Metrics  # type: ignore[assignment]
    memory: Memory  # type: ignore[assignment]
    cost: Cost  # type: ignore[assignment]
    training: Training
    diagnosis: Diagnosis | None = None


def check_fields(record: Mapping[str, Any]) -> None:
    """Raise InputError that names the first missing or invalid field of a record of plain values."""
    ok = isinstance(record, Mapping) and record.get("status") == "ok"
    found: Started = structure(Finished if ok else Started, record)
    tiou = found.protocol.tiou
    names = [f"{each:g}" for each in tiou]
    if len(set(names)) < len(names) or 0 in tiou:
        fail(tiou, ("protocol", "tiou"), "a list of different numbers in (0, 1]")
    if isinstance(found, Finished):
        for name in names:
            if name not in found.metrics.map:
                raise InputError(f"field 'metrics.map.{name}' is missing")
        if found.training.schedule and found.protocol.steps is UNSET:
            raise InputError("field 'protocol.steps' is missing")
