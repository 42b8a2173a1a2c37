"""Build the parts of a run record from the run's configuration and its measurements."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.data.feature_times import read_description
from bench.io.errors import InputError
from bench.io.reading import MAX_RECORD_BYTES, read_json
from bench.io.text import SHA256, is_name
from bench.io.writing import write_atomically
from bench.models import SHIPPED_NAMES
from bench.records.record import Record
from bench.records.schema import SCHEMA
from bench.run.specification import ResolvedRun, with_steps
from datasets.annotations.dataset import Dataset

if TYPE_CHECKING:
    from bench.detection.evaluation import Evaluation
    from bench.memory.meter import MemoryReading
    from bench.models.pretrained import LoadAudit
    from bench.training.detector import Detector
    from bench.training.history import StageMemory, TrainingLog


SOURCE_HASHES = ("source_labels_sha256", "source_pictures_sha256")
"""Fields beside a checkpoint: what checkpoints of one group share beside its name."""


def empty_record(run: ResolvedRun) -> Record:
    """Return the part of a record that is known before the run; the status is still to be set."""
    spec, dataset, protocol = run.spec, run.dataset, run.protocol
    subsets = {name: dataset.subset(name) for name in (protocol.training_subset, protocol.evaluation_subset)}
    return {
        "schema": SCHEMA,
        "id": run.id,
        "status": "cancelled",
        "phase": None,
        "message": None,
        "model": spec.model,
        "strategy": run.strategy_entry,
        "dataset": {
            "name": dataset.name,
            "variant": dataset.variant,
            "annotation_sha256": dataset.sha256,
            "pictures_sha256": None,
            "classes": len(dataset.classes),
            "videos": {name: len(videos) for name, videos in subsets.items()},
            "instances": {name: sum(len(v.instances) for v in videos) for name, videos in subsets.items()},
        },
        "protocol": {**dataclasses.asdict(protocol), "digest": protocol.digest()},
        "recipe": recipe_entry(run),
        "seed": spec.seed,
        "parallel": {"processes": spec.processes, "sharded": spec.sharded},
        "metrics": None,
        "diagnosis": None,
        "memory": None,
        "forecast": None,
        "cost": None,
        "training": None,
        "weights": {
            "name": weights_name(run),
            "sha256": run.weights_sha256,
            "matched": None,
            "licence": None,
            "group": weights_group(run),
        },
        "tuning": spec.tuning,
        "environment": {},
    }


def recipe_entry(run: ResolvedRun) -> dict[str, Any] | None:
    """Return the record's field ``recipe``: its name, the protocol fields changed, and its factors.

    None without a recipe.
    """
    spec, recipe = run.spec, run.spec.find_recipe()
    if recipe is None:
        return None
    # A classifier is no change: a recipe has its own values for it.
    kept = {name: text for name, text in spec.protocol_changes.items() if name == "classifier"}
    plain = with_steps(dataclasses.replace(spec, protocol_changes=kept).protocol(), run.dataset)
    changed = [
        name for name in spec.protocol_changes if attrgetter(name)(run.protocol) != attrgetter(name)(plain)
    ]
    own = recipe.settings(spec.strategy, spec.model)
    return {
        "name": recipe.name,
        "changed": sorted(changed),
        "settings": {name: getattr(run.strategy, name) for name in own if name not in spec.strategy_settings},
    }


def metrics(evaluation: Evaluation) -> dict[str, Any]:
    """Return mAP per tIoU, average mAP, and AP per class, as fractions."""
    tious = [f"{tiou:g}" for tiou in evaluation.tiou]
    return {
        "map": {tiou: float(value) for tiou, value in zip(tious, evaluation.map, strict=True)},
        "map_average": float(evaluation.average),
        "ap": {
            label: {tiou: float(value) for tiou, value in zip(tious, row, strict=True)}
            for label, row in zip(evaluation.classes, evaluation.ap, strict=True)
        },
    }


def weights_name(run: ResolvedRun) -> str:
    """Return the name of a run's weights: that of the checkpoint, ``random`` or ``features``."""
    return run.weights.name if run.weights else run.spec.weights


def weights_group(run: ResolvedRun) -> str | None:
    """Return the name under which checkpoints of several pre-training seeds are one row; None without one.

    It is the field ``source_group`` of the JSON file beside the checkpoint, with the start of a digest of the
    labels and pictures of the pre-training: checkpoints of other ones are not one row.
    """
    note = run.weights.with_suffix(".json") if run.weights else None
    if note is None or not note.is_file():
        return None
    content = read_json(note, MAX_RECORD_BYTES)
    group = content.get("source_group") if isinstance(content, dict) else None
    if group is not None and not is_name(group):
        raise InputError(f"{note}: field 'source_group' is {group!r:.60}, allowed is a name")
    if group is None:
        return None
    hashes = {name: content.get(name) for name in SOURCE_HASHES}
    for name, value in hashes.items():
        if not (isinstance(value, str) and SHA256.fullmatch(value)):
            raise InputError(
                f"{note}: field '{name}' is {value!r:.60}, allowed beside source_group is a sha256"
            )
    joined = "".join(map(str, hashes.values()))
    return f"{group} {hashlib.sha256(joined.encode()).hexdigest()[:8]}"


def weights_entry(run: ResolvedRun, audit: LoadAudit | None) -> dict[str, Any]:
    """Return the record's field ``weights``."""
    nothing = "random weights: nothing was loaded"
    if run.dataset.features:
        description = read_description(run.dataset.root)
        nothing = f"features of {description.origin}" if description else "features in files"
    return {
        "name": weights_name(run),
        "sha256": audit.sha256 if audit else run.weights_sha256,
        "matched": audit.share if audit else None,
        "group": weights_group(run),
        "licence": "Apache-2.0" if run.spec.weights in SHIPPED_NAMES else audit.licence if audit else None,
        "audit": list(audit.lines()) if audit else [nothing],
    }


@dataclasses.dataclass(frozen=True)
class RankMemory:
    """Memory measured by one process."""

    stages: tuple[StageMemory, ...]
    inference: MemoryReading | None
    """None in a process that evaluated no video."""

    @property
    def highest(self) -> StageMemory:
        """The largest training step of any stage."""
        return max(self.stages, key=lambda entry: entry.reading.peak_allocated_bytes)


def memory(ranks: Sequence[RankMemory], forecast: dict[str, Any]) -> dict[str, Any]:
    """Return the peaks: the largest training step of any stage, inference, and the forecasts of both.

    ``step`` is the kind of the largest step. With several processes, the one with the highest peak is
    reported, and ``ranks`` has all of them.
    """
    rank = max(ranks, key=lambda each: each.highest.reading.peak_allocated_bytes)
    highest = rank.highest.reading
    inference = max(
        (each.inference for each in ranks if each.inference), key=lambda reading: reading.peak_allocated_bytes
    )
    measured = ("peak_allocated_bytes", "peak_reserved_bytes", "peak_device_bytes")
    each_rank = [{name: getattr(each.highest.reading, name) for name in measured} for each in ranks]
    predicted = forecast["inference"]
    return {
        **{name: value for name, value in dataclasses.asdict(highest).items() if name != "phases"},
        "step": rank.highest.step,
        "predicted_peak_bytes": forecast["predicted_peak_bytes"],
        "phases": {**highest.phases, "inference": inference.phases["inference"]},
        "inference": {
            **{name: getattr(inference, name) for name in measured},
            "kinds": inference.kinds,
            "predicted_peak_bytes": predicted["predicted_peak_bytes"] if predicted else None,
        },
        "stages": [
            {
                "stage": entry.stage,
                "fidelity": dataclasses.asdict(entry.fidelity),
                "step": entry.step,
                "peak_allocated_bytes": entry.reading.peak_allocated_bytes,
            }
            for entry in rank.stages
        ],
        **({"ranks": each_rank} if len(ranks) > 1 else {}),
    }


def parameter_digests(detector: Detector) -> dict[str, str]:
    """Return the SHA-256 of the values of every parameter, which takes no memory that copies would."""
    from bench.features.disk_cache import tensor_bytes  # here, as the scheduler works without torch

    return {
        name: hashlib.sha256(tensor_bytes(parameter)).hexdigest()
        for name, parameter in detector.named_parameters()
    }


def cost(detector: Detector, log: TrainingLog, before: dict[str, str]) -> dict[str, Any]:
    """Return parameters, wall and processor seconds per step, and the bytes that training changed.

    ``before`` has the digests of the parameters before training; empty if they are not known. Encodings that
    are computed once are no part of the steps' times; ``encoding`` has theirs, empty if none are cached or
    several processes share them.
    """
    after = parameter_digests(detector) if before else {}
    changed = [p for name, p in detector.named_parameters() if after.get(name) != before.get(name)]
    return {
        "trainable_parameters": max(log.trainable_parameters.values()),
        "total_parameters": sum(p.numel() for p in detector.parameters()),
        "seconds_per_step": max(log.step_seconds.values(), default=None),
        "stage_seconds_per_step": log.step_seconds,
        "cpu_seconds_per_step": max(log.step_cpu_seconds.values(), default=None),
        "stage_cpu_seconds_per_step": log.step_cpu_seconds,
        "encoding": [dataclasses.asdict(each) for each in log.encoding],
        "checkpoint_bytes": sum(p.numel() * p.element_size() for p in changed) if before else None,
    }


def training(detector: Detector, log: TrainingLog, tuning_subset: str) -> dict[str, Any]:
    """Return the training history: losses, the schedule of stages and fidelities, and learned values.

    ``tuning`` is the curve of average mAP on the tuning videos; None if the run was not evaluated on them.
    """
    curve = [dataclasses.asdict(point) for point in log.curve]
    return {
        "loss": thinned(log.losses),
        "schedule": [
            {"first_step": first, "stage": stage, "fidelity": dataclasses.asdict(fidelity)}
            for first, stage, fidelity in log.schedule
        ],
        "learned": detector.backbone.learned(),
        "tuning": {"subset": tuning_subset, "points": curve, "dropped_steps": list(log.dropped)}
        if curve or log.dropped
        else None,
    }


def thinned(losses: tuple[tuple[float, float], ...], points: int = 100) -> list[list[float]]:
    """Return at most ``points`` rows: last step, mean classification loss, mean regression loss."""
    block = max(1, -(-len(losses) // points))
    rows = []
    for first in range(0, len(losses), block):
        part = losses[first : first + block]
        means = [round(sum(row[i] for row in part) / len(part), 5) for i in (0, 1)]
        rows.append([first + len(part), *means])
    return rows


def write_ground_truth(path: Path, dataset: Dataset, subset: str) -> None:
    """Write a subset in ActivityNet format as loaded: without excluded videos, with clipped ends."""
    database = {
        video.id: {
            "subset": video.subset,
            "duration": video.duration,
            "annotations": [{"segment": [i.start, i.end], "label": i.label} for i in video.instances],
        }
        for video in dataset.subset(subset)
    }
    content = {"version": f"{dataset.name} {dataset.variant}", "taxonomy": [], "database": database}
    write_atomically(path, gzip.compress(json.dumps(content).encode(), mtime=0))
