"""Trials on tuning videos: what was tried for each strategy, what was chosen, and the file of choices."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
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

    Raises InputError unless every strategy has the same number of trials, each with the same seeds.
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
    results = sorted(
        (record["id"], record["metrics"]["map_average"])
        for tried in trials.values()
        for trial in tried
        for record in trial.records
    )
    chosen = {name: best(tried) for name, tried in trials.items()}
    return Choices(
        schema=SCHEMA,
        model=model,
        dataset=dataset,
        trials=next(iter(counts.values())),
        digest=hashlib.sha256(json.dumps(results).encode()).hexdigest(),
        strategies={name: Choice(each.settings, each.average or 0.0) for name, each in chosen.items()},
    )


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


def trials_for(reported: Record, records: Iterable[Record]) -> list[Record]:
    """Return the finished runs that are trials for a reported one: same model and data, other videos."""
    subset = reported["protocol"]["evaluation_subset"]
    wanted = (reported["model"], reported["dataset"].get("annotation_sha256"), shared_protocol(reported))
    return [
        each
        for each in records
        if each["status"] == "ok"
        and (each["model"], each["dataset"].get("annotation_sha256"), shared_protocol(each)) == wanted
        and each["protocol"].get("evaluation_subset") != subset
    ]


def number_of_trials(records: Iterable[Record], strategy: str) -> int:
    """Return how many different settings of a strategy the runs have."""
    own = (record["strategy"] for record in records if record["strategy"]["name"] == strategy)
    return len({json.dumps(settings, sort_keys=True) for settings in own})
