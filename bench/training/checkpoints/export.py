"""Checkpoints of finished runs: the trained tensors, and the metadata to build the detector again.

A file holds the tensors of the evaluated detector that are not, bit for bit, those of its pre-trained
weights, and metadata of plain values as JSON. Files are untrusted: reading one runs no code, and the detector
that the metadata describes is first built on the meta device and its shapes compared with the file's.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta

from bench.config.digest import with_new_fields
from bench.config.overrides import check
from bench.config.protocol import Protocol
from bench.io.errors import InputError
from bench.io.reading import (
    MAX_RECORD_BYTES,
    MAX_WEIGHTS_BYTES,
    file_sha256,
    named_in_errors,
    open_regular,
    parse_json,
)
from bench.io.text import is_sha256, short
from bench.io.typed_values import fail, structure, structure_dataclass
from bench.io.writing import atomic_path
from bench.models import INPUT_NAMES, SOURCE_WEIGHTS, SYNTHETIC_WEIGHTS
from bench.training.detector import Detector, build_detector, lower_frozen_weights
from strategies import check_packages, installed, load
from strategies.base import Strategy, settings

SCHEMA = 1
KEY = "talbench"
"""Key of the checkpoint's metadata in the header of the file."""
MAX_CLASSES = 10_000
LISTED = 3


@dataclasses.dataclass(frozen=True)
class BaseWeights:
    """The pre-trained weights that a run started from; without a SHA-256 they were random."""

    name: str
    sha256: str | None
    licence: str | None = None


@dataclasses.dataclass(frozen=True)
class CheckpointMetadata:
    """The metadata of a checkpoint."""

    schema: int
    run: str
    """The run's id."""
    model: str
    strategy: Strategy
    protocol: Protocol
    classes: tuple[str, ...]
    """The classes of the head's outputs, in their order."""
    dataset: str
    """Name and variant of the training data set."""
    seed: int
    weights: BaseWeights
    device: str
    """The type of device used for training."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An opened file: its metadata, which are checked, and its tensors' shapes, which are not yet."""

    path: Path
    sha256: str
    note: CheckpointMetadata
    shapes: dict[str, tuple[int, ...]]


def loaded_names(detector: Detector) -> set[str]:
    """Return the detector's names of the tensors that were loaded from pre-trained weights."""
    found = set()
    for prefix, module in detector.named_modules():
        audit = getattr(module, "load_audit", None)
        if audit is not None:
            found |= {f"{prefix}.{name}" for name in audit.matched}
    return found


def restorable_names(detector: Detector, strategy: Strategy) -> set[str]:
    """Return the names of the tensors that can be built again from the pre-trained weights.

    Besides the loaded ones, which a strategy may have renamed or split, they are all of the backbone's that
    no stage trains.
    """
    trained = detector.trained_names(strategy.stages())
    frozen = {name for name in detector.state_dict() if name.startswith("backbone.") and name not in trained}
    return loaded_names(detector) | frozen


def build(note: CheckpointMetadata, weights: Path | None, seed: int) -> Detector:
    """Return the detector that metadata describe, before training, with initial values of ``seed``."""
    detector, _, _ = build_detector(
        note.model, weights, note.strategy, note.protocol, len(note.classes), seed
    )
    lower_frozen_weights(detector, note.strategy.stages(), note.protocol)
    return detector


def write_checkpoint(path: Path, detector: Detector, note: CheckpointMetadata, weights: Path | None) -> None:
    """Write the tensors of ``detector`` that cannot be restored from the pre-trained weights."""
    from safetensors.torch import save_file

    again = build(note, weights, note.seed + 1)
    known = restorable_names(again, note.strategy) if weights else set()
    values = again.state_dict()
    tensors = {}
    for name, value in detector.state_dict().items():
        own = value.detach().cpu()
        if name not in known or not (own.dtype == values[name].dtype and torch.equal(own, values[name])):
            tensors[name] = own.clone().contiguous()
    plain = {
        **{field.name: getattr(note, field.name) for field in dataclasses.fields(note)},
        "strategy": settings(note.strategy),
        "protocol": dataclasses.asdict(note.protocol),
        "weights": dataclasses.asdict(note.weights),
    }
    with atomic_path(path) as draft:
        save_file(tensors, draft, metadata={KEY: json.dumps(plain, allow_nan=False)})
        draft.chmod(0o644)  # the file is created with private permissions


def read_checkpoint(path: Path) -> Checkpoint:
    """Return a checkpoint with checked metadata; raise InputError, one line, for an invalid file."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        with open_regular(path, MAX_WEIGHTS_BYTES), safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            shapes = {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: no checkpoint, or a damaged one ({_line(error)})") from None
    if KEY not in metadata:
        raise InputError(f"{path}: field '{KEY}' is missing; allowed are files that --keep-weights wrote")
    try:
        content = parse_json(metadata[KEY].encode(), "x", MAX_RECORD_BYTES)
    except InputError as error:
        raise InputError(f"{path}: field '{KEY}' is not JSON ({str(error).removeprefix('x: ')})") from None
    with named_in_errors(path):
        note = _note_of(content)
    return Checkpoint(path, file_sha256(path), note, shapes)


class _Stored(msgspec.Struct, forbid_unknown_fields=True):
    """The metadata as stored in the file."""

    schema: Annotated[int, Meta(ge=SCHEMA, le=SCHEMA, description=str(SCHEMA))]
    run: str
    model: Annotated[
        str, Meta(pattern=rf"\A({'|'.join(INPUT_NAMES)})\Z", description=f"one of {', '.join(INPUT_NAMES)}")
    ]
    strategy: dict[str, Any]
    protocol: dict[str, Any]
    classes: tuple[str, ...]
    dataset: str
    seed: Annotated[int, Meta(ge=0, lt=2**31, description="a whole number from 0 to 2147483647")]
    weights: dict[str, Any]
    device: str


def _note_of(content: Any) -> CheckpointMetadata:
    """Return the metadata from JSON values; raise InputError that names the first wrong field."""
    if not isinstance(content, Mapping):
        fail(content, (KEY,), "an object")
    stored: _Stored = structure(_Stored, content)
    readable = all(label.isprintable() and 0 < len(label) <= 200 for label in stored.classes)
    if not (readable and 0 < len(set(stored.classes)) == len(stored.classes) <= MAX_CLASSES):
        names = f"1 to {MAX_CLASSES} different names of printable characters"
        fail(stored.classes, ("classes",), names)
    for name, text in (("run", stored.run), ("dataset", stored.dataset)):
        if not (text.isprintable() and len(text) <= 300):
            fail(text, (name,), "text of at most 300 printable characters")
    weights: BaseWeights = structure_dataclass(BaseWeights, stored.weights, ("weights",))
    if weights.sha256 and not is_sha256(weights.sha256):
        fail(weights.sha256, ("weights", "sha256"), "a sha256")
    protocol: Protocol = structure_dataclass(Protocol, with_new_fields(stored.protocol), ("protocol",))
    check(protocol)
    return CheckpointMetadata(
        schema=stored.schema,
        run=stored.run,
        model=stored.model,
        strategy=_strategy_of(stored.strategy),
        protocol=protocol,
        classes=stored.classes,
        dataset=stored.dataset,
        seed=stored.seed,
        weights=weights,
        device=stored.device,
    )


def _strategy_of(content: dict[str, Any]) -> Strategy:
    points = installed()
    name = content.get("name")
    if not isinstance(name, str) or name not in points:
        fail(name, ("strategy", "name"), f"one that is installed: {', '.join(points)}")
    check_packages(kind := load(name))
    fields = {key: value for key, value in content.items() if key != "name"}
    strategy: Strategy = structure_dataclass(kind, fields, ("strategy",))
    return strategy


def restore(checkpoint: Checkpoint, weights: Path | None, note: CheckpointMetadata | None = None) -> Detector:
    """Return the evaluated detector, on the CPU.

    ``weights`` is the file of its pre-trained weights, needed only if training left some of them unchanged;
    those shipped for vit-t are found automatically. ``note`` replaces the checkpoint's metadata; it may
    differ in values that change no shape. Raises InputError for a file that does not fit its own metadata,
    and for weights other than the run's.
    """
    from safetensors.torch import load_file

    note = note or checkpoint.note
    expected = _expected_shapes(checkpoint)
    absent = sorted(expected.keys() - checkpoint.shapes.keys())
    _refuse(
        checkpoint,
        {
            "not in the detector": sorted(checkpoint.shapes.keys() - expected.keys()),
            "of another shape": [n for n, s in checkpoint.shapes.items() if expected.get(n, s) != s],
        },
    )
    detector = build(note, _base_weights(checkpoint, weights) if absent else None, note.seed)
    known = restorable_names(detector, note.strategy)
    _refuse(checkpoint, {"missing": [name for name in absent if name not in known]})
    tensors = load_file(checkpoint.path)
    state = detector.state_dict()
    for name, value in tensors.items():
        if value.dtype != state[name].dtype and not (
            value.is_floating_point() and state[name].is_floating_point()
        ):
            raise InputError(f"{checkpoint.path}: {name}: {value.dtype}, allowed is {state[name].dtype}")
    detector.load_state_dict(tensors, strict=False)
    return detector.eval()


def _refuse(checkpoint: Checkpoint, problems: Mapping[str, list[str]]) -> None:
    """Raise InputError that lists the tensors with problems, if there are any."""
    if listed := "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names):
        raise InputError(f"{checkpoint.path}: does not fit its own metadata; {listed}")


def _expected_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the detector that the metadata describe, built on the meta device."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            detector = build(checkpoint.note, None, 0)
        return {name: tuple(value.shape) for name, value in detector.state_dict().items()}
    except Exception as error:  # the metadata are untrusted: any error is attributed to them
        raise InputError(f"{checkpoint.path}: its detector cannot be built ({_line(error)})") from None


def _base_weights(checkpoint: Checkpoint, weights: Path | None) -> Path:
    """Return the file of the run's pre-trained weights after checking its SHA-256."""
    wanted = checkpoint.note.weights
    if wanted.sha256 is None:
        raise InputError(f"{checkpoint.path}: lacks tensors, though its run started from random weights")
    if weights is None and checkpoint.note.model == "vit-t":
        weights = next((p for p in SYNTHETIC_WEIGHTS.values() if p.name == wanted.name), SOURCE_WEIGHTS)
    if weights is None:
        raise InputError(
            f"--weights: the path of {short(wanted.name)} is needed (sha256 {wanted.sha256}), "
            f"which {checkpoint.note.run} started from"
        )
    found = file_sha256(weights)
    if found != wanted.sha256:
        raise InputError(
            f"{weights}: sha256 {found[:12]}, {checkpoint.note.run} started from {short(wanted.name)} "
            f"of sha256 {wanted.sha256[:12]}; pass that file as --weights"
        )
    return weights


def _line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(ascii(name)[1:-1][:80] for name in names[:LISTED]) + more
