"""Trials on tuning videos: what was tried for each strategy, what was chosen, and the file of choices."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bench.config.digest import TUNED_FIELDS, with_new_fields
from bench.io.errors import InputError
from bench.io.reading import MAX_RECORD_BYTES, named_in_errors, read_json
from bench.io.typed_values import TABLE, Fraction, Label, Name, Positive, Sha256, structure
from bench.io.writing import write_atomically
from bench.records.record import Record
from datasets.cards.cards import is_annotation_path, tuning_subset

SCHEMA = 1
LEAST_TRIALS = 4
"""Trials of every strategy in a closed table."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One strategy with one set of hyper-parameters, evaluated on tuning videos."""

    strategy: str
    settings: dict[str, str]
    """The fields that differ from the first trial of the strategy, as text."""
    records: tuple[Record, ...]
    """The finished runs, of any seeds and source weights."""

    @property
    def average(self) -> float | None:
        """Mean over runs of the average mAP, as a fraction; None without a finished run."""
        values = [float(record["metrics"]["map_average"]) for record in self.records]
        return statistics.fmean(values) if values else None


def best(trials: Sequence[Trial]) -> Trial:
    """Return the trial with the highest mAP; of equal ones the first, which has the default settings."""
    return max(trials, key=lambda trial: -1.0 if trial.average is None else trial.average)


class Choice(msgspec.Struct, forbid_unknown_fields=True):
    """The chosen settings of a strategy, as text for ``--set``, and their mAP on tuning videos."""

    settings: Annotated[dict[str, str], TABLE]
    map_average: Fraction


class Choices(msgspec.Struct, forbid_unknown_fields=True):
    """A file of choices."""

    schema: Annotated[int, Meta(ge=SCHEMA, le=SCHEMA, description=str(SCHEMA))]
    model: Name
    dataset: Label
    trials: Positive
    """Trials of each strategy."""
    digest: Sha256
    """SHA-256 of the ids and mAP of all runs of all trials."""
    strategies: Annotated[dict[str, Choice], TABLE]


def choose(model: str, dataset: str, trials: Mapping[str, Sequence[Trial]]) -> Choices:
    """Return the best settings of each strategy.

    ``dataset`` is a known data set's name or the path of annotations, of which the file name is kept. Raises
    InputError unless every strategy has the same number of trials, each with the same seeds.
    """
    counts = {name: len(tried) for name, tried in trials.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"tuning: trials {counts}, allowed is the same number for every strategy")
    runs = {
        f"{name} {trial.settings or 'default'}": sorted(_run(record) for record in trial.records)
        for name, tried in trials.items()
        for trial in tried
    }
    most = max(runs.values(), key=len)
    if lacking := [name for name, found in runs.items() if found != most or not found]:
        raise InputError(
            f"tuning: {lacking[0]} lacks finished runs of others, allowed is the same seeds for all trials"
        )
    chosen = {name: best(tried) for name, tried in trials.items()}
    return Choices(
        schema=SCHEMA,
        model=model,
        dataset=dataset_label(dataset),
        trials=next(iter(counts.values())),
        digest=results_digest(trials),
        strategies={name: Choice(each.settings, each.average or 0.0) for name, each in chosen.items()},
    )


def dataset_label(dataset: str) -> str:
    """Return a known data set's name, or the file name of annotations, which is the same in every folder."""
    return Path(dataset).name if is_annotation_path(dataset) else dataset


def results_digest(trials: Mapping[str, Sequence[Trial]]) -> str:
    """Return the SHA-256 of the ids and mAP of all runs of all trials."""
    results = sorted(
        (record["id"], record["metrics"]["map_average"])
        for tried in trials.values()
        for trial in tried
        for record in trial.records
    )
    return hashlib.sha256(json.dumps(results).encode()).hexdigest()


def _run(record: Record) -> tuple[str, int]:
    return str(record["weights"]["sha256"]), int(record["seed"])


def write_choices(path: Path, choices: Choices) -> None:
    """Write a file of choices as JSON."""
    write_atomically(path, (json.dumps(msgspec.to_builtins(choices), indent=1) + "\n").encode())


def read_choices(path: Path) -> Choices:
    """Return the choices in a file; raise InputError, one line, for an invalid one."""
    with named_in_errors(path):
        found: Choices = structure(Choices, read_json(path, MAX_RECORD_BYTES, finite=True))
    return found


def shared_protocol(record: Record) -> dict[str, Any]:
    """Return a record's protocol without the subset of evaluation and what is tuned for each strategy."""
    left_out = {"digest", "evaluation_subset", *TUNED_FIELDS}
    fields = with_new_fields(record["protocol"]).items()
    return {name: value for name, value in fields if name not in left_out}


def source_of(record: Record) -> str:
    """Return what weights a trial shares with a reported run: their group, else their digest or name."""
    weights = record["weights"]
    return str(weights.get("group") or weights["sha256"] or weights["name"])


def _setting(record: Record) -> tuple[Any, ...]:
    """Return what a trial and a reported run share: model, weights, data and protocol."""
    dataset = record["dataset"]
    # Features in files have another digest for other videos.
    weights = "" if record["model"] == "features" else source_of(record)
    data = (dataset["name"], dataset["variant"], dataset["annotation_sha256"])
    return (record["model"], weights, data, shared_protocol(record))


def trials_for(reported: Record, records: Iterable[Record]) -> list[Record]:
    """Return the finished runs on tuning videos that are trials for a reported run, with its ``_setting``."""
    subset, wanted = tuning_subset(str(reported["dataset"]["name"])), _setting(reported)
    return [
        each
        for each in records
        if each["status"] == "ok"
        and each["protocol"]["evaluation_subset"] == subset
        and each["protocol"]["evaluation_subset"] != reported["protocol"]["evaluation_subset"]
        and _setting(each) == wanted
    ]


def recorded_trials(records: Iterable[Record]) -> dict[str, list[Trial]]:
    """Return the trials that recorded runs are of, by strategy, with the recorded settings as text."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["strategy"]["name"], _entry(record)), []).append(record)
    found: dict[str, list[Trial]] = {}
    for (name, _), members in sorted(groups.items()):
        settings = {field: str(value) for field, value in members[0]["strategy"].items() if field != "name"}
        found.setdefault(name, []).append(Trial(name, settings, tuple(members)))
    return found


def number_of_trials(records: Iterable[Record], strategy: str) -> int:
    """Return how many settings of a strategy ran with the weights and seeds that most settings have."""
    trials = recorded_trials(records)
    runs = {
        name: [tuple(sorted(_run(record) for record in trial.records)) for trial in tried]
        for name, tried in trials.items()
    }
    counts = Counter(each for found in runs.values() for each in found)
    if strategy not in runs:
        return 0
    usual = max(counts, key=lambda each: (counts[each], len(each)))
    return runs[strategy].count(usual)


def _entry(record: Record) -> str:
    return json.dumps(record["strategy"], sort_keys=True)


def unchosen(rows: Mapping[str, Sequence[Record]], trials: Sequence[Record]) -> list[str]:
    """Return why the rows of a table are not what their trials choose, one line each.

    ``rows`` are the records by label, each row with one set of settings; ``trials`` those of ``trials_for``.
    Trials of strategies that are not in the table may have been chosen from together with those that are.
    """
    tried = recorded_trials(trials)
    names = {records[0]["strategy"]["name"] for records in rows.values()}
    inside = {name: found for name, found in tried.items() if name in names}
    digests = []
    for together in (inside, tried):
        try:
            digests.append(choose("", "", together).digest)
        except (InputError, ValueError):
            continue  # not equal trials: their number says so
    lines = []
    for label, records in rows.items():
        found = tried.get(records[0]["strategy"]["name"], [])
        highest = best(found).average if found else None
        # Of equal ones any is right: the order in which they were tried is not recorded.
        allowed = {_entry(trial.records[0]) for trial in found if trial.average == highest}
        if found and _entry(records[0]) not in allowed:
            lines.append(f"{label}: its settings are not those of the best trial on tuning videos")
        chosen = [record.get("tuning") or {} for record in records]
        if found and not all(chosen):
            lines.append(f"{label}: trials are recorded, but field 'tuning' is missing: nothing was chosen")
        if any(each and each["digest"] not in digests for each in chosen):
            lines.append(f"{label}: field 'tuning.digest' is not that of the recorded trials")
    return lines
