"""Group records into comparisons, one table each, and into rows over seeds."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.config.digest import DEFAULTS_OF_NEW_FIELDS
from bench.config.presets import default_protocol
from bench.io.text import MAX_NAME_LENGTH, printable
from bench.records.record import Record
from bench.report.analysis.bootstrap import Difference, RunKey

MEGABYTE = 1e6
MAX_PART_LENGTH = 60
"""Maximum characters of each part of a file name: file systems allow 255 bytes in total."""


def run_key(record: Record) -> RunKey:
    """Return what runs of two rows are paired by."""
    return str(record["weights"]["sha256"]), int(record["seed"])


@dataclasses.dataclass(frozen=True)
class Row:
    """One strategy with one set of hyper-parameters, over its seeds."""

    label: str
    records: tuple[Record, ...]

    @property
    def strategy(self) -> str:
        return str(self.records[0]["strategy"]["name"])

    @functools.cached_property
    def finished(self) -> tuple[Record, ...]:
        return tuple(record for record in self.records if record["status"] == "ok")

    @property
    def failed(self) -> tuple[Record, ...]:
        return tuple(record for record in self.records if record["status"] != "ok")

    @functools.cached_property
    def averages(self) -> dict[RunKey, float]:
        """Average mAP in percent by source weights and seed."""
        return {run_key(record): average(record) for record in self.finished}

    @functools.cached_property
    def _values(self) -> dict[Callable[[Record], float | None], tuple[float, ...]]:
        return {}

    def values(self, pick: Callable[[Record], float | None]) -> tuple[float, ...]:
        """Return the values of ``pick`` for all finished runs that have one; cached by ``pick``."""
        if pick not in self._values:
            found = (pick(record) for record in self.finished)
            self._values[pick] = tuple(value for value in found if value is not None)
        return self._values[pick]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Comparable rows: same data and decoded frames, model, weights, protocol and device."""

    dataset: str
    variant: str
    model: str
    weights: str
    digest: str
    device: str
    tious: tuple[str, ...]
    rows: tuple[Row, ...]
    mark: str = ""
    """Distinguishes comparisons that would otherwise share file names, such as on two devices."""
    classifier: str = ""
    """The external classifier that assigned the classes of detections; empty if the head did."""
    steps: int | None = None
    """Training steps of each run, if recorded."""
    pictures: str = ""
    """Digest that distinguishes comparisons that differ only in the decoded frames; else empty."""
    recipe: str = ""
    """The recipe of the protocol, with the fields that were changed; empty without one."""
    older: bool = False
    """Whether the protocol is of a version whose defaults were others (``_older``)."""
    differences: Mapping[tuple[str, str], Difference] = dataclasses.field(default_factory=dict)
    """Differences between rows with intervals, by two labels: first minus second."""
    doublings: Mapping[str, tuple[float, int]] = dataclasses.field(default_factory=dict)
    """By label, points on tuning videos that twice the steps gain, and over how many runs."""

    @property
    def slug(self) -> str:
        """Unique file name stem of the comparison."""
        parts = [self.dataset, self.model, self.weights.removesuffix(".safetensors"), self.digest[:6]]
        names = [re.sub(r"[^A-Za-z0-9_.-]+", "-", part)[:MAX_PART_LENGTH] for part in parts]
        return "_".join([*names, *([self.mark] if self.mark else [])])

    @property
    def title(self) -> str:
        parts = (f"{self.dataset} ({self.variant})", self.model, f"weights {self.weights}")
        classifier = (f"classes by {self.classifier}",) if self.classifier else ()
        pictures = (f"pictures {self.pictures}",) if self.pictures else ()
        recipe = (f"recipe {self.recipe}",) if self.recipe else ()
        steps = (f"{self.steps} steps",) if self.steps else ()
        protocol = f"{'older protocol' if self.older else 'protocol'} {self.digest[:8]}"
        return ", ".join((*parts, *pictures, *classifier, *recipe, *steps, protocol))


def _key(record: Record) -> tuple[str, ...]:
    # Without the device: runs that failed early do not record it, but belong to the same comparison.
    dataset, weights = record["dataset"], record["weights"]
    return (
        dataset["name"],
        dataset["variant"],
        dataset["annotation_sha256"],
        record["model"],
        *((group, "") if (group := weights.get("group")) else (weights["name"], str(weights["sha256"]))),
        record["protocol"]["digest"],
    )


def _classifier(record: Record) -> str:
    protocol = record["protocol"]
    name = protocol.get("classifier")
    return f"{name} (top {protocol['classifier_top']})" if name else ""


def _recipe(records: Sequence[Record]) -> str:
    """Return the recipes of records with one protocol, each with its changed fields."""
    found: dict[str, None] = {}
    for record in records:
        if recipe := record.get("recipe"):
            changed = ", ".join(recipe.get("changed", ()))
            found[f"{recipe['name']} with own {changed}" if changed else recipe["name"]] = None
    return " or ".join(found)


def _older(record: Record) -> bool:
    """Return whether a record lacks protocol fields whose default for its model is no longer the former one.

    It is then of an earlier version, and a run today has another protocol.
    """
    default = default_protocol(str(record["model"]), dataset=str(record["dataset"]["name"]))
    return any(
        name not in record["protocol"] and getattr(default, name) != value
        for name, value in DEFAULTS_OF_NEW_FIELDS.items()
        if "." not in name
    )


def comparisons(records: Sequence[Record]) -> list[Comparison]:
    """Return the comparisons, sorted by name; each record is in exactly one."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(_key(record), []).append(record)
    found: list[tuple[Comparison, str]] = []
    for key in sorted(groups):
        for device, alike in _split(groups[key], lambda record: record["environment"].get("device")):
            for pictures, members in _split(alike, _pictures):
                tious = tuple(f"{tiou:g}" for tiou in members[0]["protocol"]["tiou"])
                item = Comparison(
                    *(key[0], key[1], key[3], key[4], key[6], device or "unknown", tious, _rows(members)),
                    classifier=_classifier(members[0]),
                    steps=members[0]["protocol"].get("steps"),
                    pictures=pictures if len(members) < len(alike) else "",
                    recipe=_recipe(members),
                    older=any(map(_older, members)),
                )
                mark = hashlib.sha256(json.dumps([*key, pictures, device]).encode()).hexdigest()[:6]
                found.append((item, mark))
    # Mark all comparisons with the same file name: a name must not move from one to another.
    times = Counter(item.slug for item, _ in found)
    return [dataclasses.replace(item, mark=mark) if times[item.slug] > 1 else item for item, mark in found]


def _pictures(record: Record) -> str | None:
    """Return a short digest of the decoded frames of a run; None if it failed before they were known."""
    digests = record["dataset"].get("pictures_sha256")
    if not digests:
        return "not recorded" if record["status"] == "ok" else None
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:8]


def _split(records: Sequence[Record], pick: Callable[[Record], str | None]) -> list[tuple[str, list[Record]]]:
    """Return the records grouped by ``pick``; records without a value join the first group."""
    values = sorted({value for record in records if (value := pick(record))}) or [""]
    return [(value, [r for r in records if (pick(r) or values[0]) == value]) for value in values]


def _rows(records: Sequence[Record]) -> tuple[Row, ...]:
    """Return the rows, sorted by strategy name, with head-only (the baseline) first."""
    by_settings: dict[str, list[Record]] = {}
    for record in records:
        by_settings.setdefault(json.dumps(record["strategy"], sort_keys=True), []).append(record)
    strategies = [json.loads(text) for text in by_settings]
    rows = []
    for settings, members in zip(strategies, by_settings.values(), strict=True):
        alike = [other for other in strategies if other["name"] == settings["name"]]
        label = settings["name"]
        names = [key for key in differing_fields(alike) if not _usual(key, settings, alike)]
        # Factors of a recipe differ from the strategy's own.
        of_recipe = (members[0].get("recipe") or {}).get("settings", ())
        names += [key for key in of_recipe if key not in names]
        names += [key for key in (members[0].get("tuning") or {}).get("settings", ()) if key not in names]
        told = [f"{key}={settings.get(key, 'default')}" for key in names]
        told += [f"{steps} steps" for steps in sorted(set(map(longer_training, members)) - {0})]
        if told:
            label += f" ({', '.join(told)})"
        label = printable(label, MAX_NAME_LENGTH)
        rows.append(Row(label, tuple(sorted(members, key=lambda r: (int(r["seed"]), run_key(r))))))
    return tuple(sorted(rows, key=lambda row: (row.records[0]["strategy"]["name"] != "head-only", row.label)))


def longer_training(record: Record) -> int:
    """Return the steps of a run to which a strategy has added some; 0 for the protocol's own number."""
    steps, losses = record["protocol"].get("steps"), (record.get("training") or {}).get("loss")
    return int(losses[-1][0]) if steps and losses and losses[-1][0] > steps else 0


def differing_fields(strategies: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the sorted fields in which the settings of a strategy differ."""
    fields = {key for settings in strategies for key in settings}
    return sorted(k for k in fields if any(s.get(k) != strategies[0].get(k) for s in strategies))


def _usual(key: str, settings: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether most settings have the same value in a field, so that a label need not name it."""
    agreeing = [other for other in alike if other.get(key) == settings.get(key)]
    return 2 * len(agreeing) > len(alike)


@functools.cache
def at_tiou(tiou: str) -> Callable[[Record], float]:
    """Return a function of a record that returns the mAP, in percent, at a threshold."""
    return lambda record: 100 * float(record["metrics"]["map"][tiou])


def average(record: Record) -> float:
    """Return the average mAP in percent."""
    percent: float = 100 * record["metrics"]["map_average"]
    return percent


def megabytes(record: Record) -> float:
    """Return the measured peak of a training step in MB (10^6 bytes)."""
    return float(record["memory"]["peak_allocated_bytes"] / MEGABYTE)
