"""``python -m bench.verify``: check which tables contain only comparable rows, and that records are intact.

A table is closed if only the strategy differs between its rows: one protocol (including head, steps and the
rule that selects the evaluated weights), one data hash, one set of seeds, as many recorded trials on tuning
videos for each strategy, at least four (``tuning/records``), and each row has the settings of its best trial.
Otherwise it is open, and the differences are listed. Runs on tuning videos besides these trials
(``exploration/records``) are counted. Every record is checked for consistency and against its detections, and
kept intervals for their content.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.config.digest import TUNED_FIELDS, digest_of, with_new_fields
from bench.io.errors import InputError
from bench.io.exit_code import CommandParser, run_command
from bench.io.text import printable
from bench.records.identity import RunIdentity
from bench.records.paths import add_results, default_results, detections_path, ground_truth_path
from bench.records.record import Record, dataset_settings, read_folder
from bench.records.tuning import LEAST_TRIALS, number_of_trials, source_of, trials_for, unchosen

DEVICES = ("cpu", "cuda", *(f"cuda:{number}" for number in range(16)))
"""Possible devices of a run: the id depends on the device, but the record has only its type."""
TOLERANCE = 1e-9


def protocol_digest(protocol: dict[str, Any]) -> str:
    """Return the digest of a recorded protocol's fields."""
    return digest_of({name: value for name, value in protocol.items() if name != "digest"})


def identifiers(record: Record) -> set[str]:
    """Return the possible ids of a record, one for each device that the run may have used."""
    dataset, device_type = record["dataset"], record["environment"].get("device_type")
    return {
        RunIdentity(
            model=record["model"],
            weights_sha256=record["weights"]["sha256"],
            strategy=record["strategy"],
            dataset=(dataset["name"], dataset["variant"], dataset["annotation_sha256"]),
            protocol_digest=record["protocol"]["digest"],
            device=device,
            seed=record["seed"],
            **record.get("parallel", {}),
        ).run_id()
        for device in DEVICES
        if device_type in (None, device.partition(":")[0])
    }


def inconsistencies(record: Record, results: Path) -> Iterator[str]:
    """Yield one line for each field of a record that is inconsistent with the others."""
    if protocol_digest(record["protocol"]) != record["protocol"]["digest"]:
        yield "field 'protocol.digest' is not that of the protocol's fields"
    if record["id"] not in identifiers(record):
        yield "field 'id' does not follow from model, weights, strategy, data, protocol and seed"
    if record["status"] == "ok":
        yield from _wrong_metrics(record, results)
        yield from _wrong_memory(record)
    elif record["metrics"] is not None:
        yield f"field 'metrics' is set, though the status is '{record['status']}'"


def _wrong_metrics(record: Record, results: Path) -> Iterator[str]:
    """Check the metrics for consistency, and against detections and ground truth if both exist."""
    from bench.detection.evaluation import evaluate
    from bench.detection.submission import read_ground_truth, read_submission

    metrics, protocol = record["metrics"], record["protocol"]
    try:
        tious = [f"{tiou:g}" for tiou in protocol["tiou"]]
        values = [float(metrics["map"][tiou]) for tiou in tious]
        average = float(metrics["map_average"])
    except (KeyError, TypeError, ValueError):
        yield "field 'metrics' lacks mAP at the protocol's thresholds"
        return
    if not abs(sum(values) / len(values) - average) <= TOLERANCE:  # NaN too
        yield "field 'metrics.map_average' is not the mean over the thresholds"
    truth, found = ground_truth_path(results, record), detections_path(results, record["id"])
    if not (truth.exists() and found.exists()):
        return
    wanted = read_ground_truth(truth, protocol["evaluation_subset"])
    instances = record["dataset"].get("instances", {}).get(protocol["evaluation_subset"])
    if instances is not None and instances != len(wanted):
        yield f"field 'dataset.instances' is {instances}, {truth.name} holds {len(wanted)}"
    evaluation = evaluate(wanted, read_submission(found), protocol["tiou"])
    for tiou, recorded, value in zip(tious, values, evaluation.map, strict=True):
        if not abs(recorded - value) <= TOLERANCE:
            yield f"field 'metrics.map.{tiou}' is {recorded:.4f}, its detections give {value:.4f}"


def _wrong_memory(record: Record) -> Iterator[str]:
    """Check the peak against the peaks of the stages and its split by kind."""
    memory = record["memory"]
    peak = memory.get("peak_allocated_bytes")
    stages = [stage.get("peak_allocated_bytes") for stage in memory.get("stages") or ()]
    if stages and peak != max(stages):
        yield "field 'memory.peak_allocated_bytes' is not the highest of the stages"
    kinds = memory.get("kinds")
    if memory.get("meter") == "cpu-tensors" and kinds and sum(kinds.values()) != peak:
        yield "field 'memory.kinds' does not add up to the peak"
    predicted = (record.get("forecast") or {}).get("predicted_peak_bytes")
    if "forecast" in record and memory.get("predicted_peak_bytes") != predicted:
        yield "field 'memory.predicted_peak_bytes' is not the forecast's"


def differences(first: Any, other: Any, name: str = "protocol") -> list[str]:
    """Return the fields in which two recorded protocols differ, with both values."""
    if isinstance(first, dict) and isinstance(other, dict):
        return [
            line
            for key in sorted(first.keys() | other.keys())
            if key != "digest"
            for line in differences(first.get(key), other.get(key), f"{name}.{key}")
        ]
    return [] if first == other else [f"{name}: {first} and {other}"]


def with_defaults(record: Record) -> dict[str, Any]:
    """Return a record's protocol with fields that were added later, at the values in use at its time.

    Without the fields that are tuned for each strategy.
    """
    fields = with_new_fields(record["protocol"])
    return {name: value for name, value in fields.items() if name not in TUNED_FIELDS}


def open_reasons(comparison: Any, trials: Sequence[Record]) -> list[str]:
    """Return the reasons why the rows of a table are not comparable; empty if the table is closed."""
    records = [record for row in comparison.rows for record in row.records]
    reasons = []
    if len({row.strategy for row in comparison.rows}) < 2:
        reasons.append(f"only {comparison.rows[0].strategy} is there, nothing to compare it with")
    picks: tuple[tuple[str, Callable[[Record], Any]], ...] = (
        # Decoded frames are not compared: grouping separates them, and runs that failed early lack digests.
        ("dataset", lambda record: {k: v for k, v in dataset_settings(record).items() if k != "name"}),
        ("protocol", with_defaults),
    )
    for name, pick in picks:
        for record in records[1:]:
            lines = differences(pick(records[0]), pick(record), name)
            reasons += [f"{records[0]['id']}, {record['id']}: {line}" for line in lines]
    for row in comparison.rows:
        times = Counter((str(record["weights"]["sha256"]), record["seed"]) for record in row.records)
        reasons += [f"{row.label}: seed {seed} is there {n} times" for (_, seed), n in times.items() if n > 1]
    seeds = {row.label: _seeds(row.records) for row in comparison.rows}
    if len({str(each) for each in seeds.values()}) > 1:
        reasons.append("seeds differ: " + "; ".join(f"{label} {each}" for label, each in seeds.items()))
    reasons += [
        f"{row.label}: {len(row.failed)} of {len(row.records)} seeds failed"
        for row in comparison.rows
        if row.failed and row.finished
    ]
    return reasons + _unequal_trials(comparison, records, trials)


def _seeds(records: Sequence[Record]) -> list[Any]:
    """Return the seeds of a row, each with the start of its weights' digest if these are several."""
    several = len({record["weights"]["sha256"] for record in records}) > 1
    pairs = {(str(record["weights"]["sha256"])[:8], record["seed"]) for record in records}
    return sorted(pairs) if several else sorted(seed for _, seed in pairs)


def _unequal_trials(comparison: Any, records: Sequence[Record], trials: Sequence[Record]) -> list[str]:
    """Return violations of the rules of hyper-parameter selection."""
    mine = trials_for(records[0], trials)
    names = sorted({row.strategy for row in comparison.rows})
    counts = {name: number_of_trials(mine, name) for name in names}
    reasons = []
    if len(set(counts.values())) > 1 or min(counts.values()) < LEAST_TRIALS:
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        reasons.append(f"tuning trials: {shown}; a closed table has {LEAST_TRIALS} or more, as many for each")
    if len({(record.get("tuning") or {}).get("digest") for record in records}) > 1:
        reasons.append("tuning: some runs have chosen settings, others have not, or those of other trials")
    if shared := {trial["seed"] for trial in mine} & {record["seed"] for record in records}:
        reasons.append(f"tuning trials used seeds of the table: {sorted(shared)}")
    return reasons + unchosen({row.label: row.records for row in comparison.rows}, mine)


def explored(comparison: Any, trials: Sequence[Record], others: Sequence[Record]) -> list[str]:
    """Return a line with the number of runs on tuning videos that were not trials equal for all, if any."""
    first = comparison.rows[0].records[0]
    subset = first["protocol"]["evaluation_subset"]
    equal = {record["id"] for record in trials_for(first, trials)}
    own = [trial for trial in trials if source_of(trial) == source_of(first)]
    counts = Counter(
        record["strategy"]["name"]
        for record in (*own, *others)
        if record["id"] not in equal
        and record["protocol"]["evaluation_subset"] != subset
        and (record["model"], record["dataset"]["name"]) == (comparison.model, comparison.dataset)
    )
    shown = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return [f"  exploration on tuning videos, not equal for all: {shown} runs"] if counts else []


def nearest(comparison: Any, others: Sequence[Any]) -> str:
    """Return how a table differs from the largest one of the same data set and model."""

    def runs(item: Any) -> int:
        return sum(len(row.records) for row in item.rows)

    alike = [
        o
        for o in others
        if o is not comparison and (o.dataset, o.model) == (comparison.dataset, comparison.model)
    ]
    if not alike:
        return ""
    other = max(alike, key=runs)
    mine, theirs = comparison.rows[0].records[0], other.rows[0].records[0]
    lines = [
        *differences(theirs["dataset"], mine["dataset"], "dataset"),
        *differences(theirs["weights"].get("sha256"), mine["weights"].get("sha256"), "weights.sha256"),
        *differences(with_defaults(theirs), with_defaults(mine)),
        *differences(other.device, comparison.device, "device"),
    ]
    return f"differs from the table of protocol {other.digest[:8]}: " + "; ".join(lines)


def verify(results: Path) -> tuple[list[str], int]:
    """Return the lines to print, and the exit code: 0 if all tables are closed and all records intact."""
    from bench.report.analysis.differences import edited_intervals
    from bench.report.grouping import comparisons

    folder = read_folder(results / "records")
    if not folder.records:
        named = "; ".join(["holds no record", *folder.problems])
        raise InputError(f"{results / 'records'}: {named}")
    wrong = [f"foreign: {problem}" for problem in folder.problems]
    checked, records = 0, []
    for record in folder.records:
        try:
            comparisons([record])
            wrong += [f"edited: {record['id']}: {line}" for line in inconsistencies(record, results)]
            checked += detections_path(results, record["id"]).exists()
            records.append(record)
        except InputError as error:
            wrong.append(f"foreign: {record['id']}: cannot be checked ({printable(str(error), 200)})")
    wrong += [f"edited: {line}" for line in edited_intervals(results)]
    trials = read_folder(results / "tuning" / "records").records
    others = read_folder(results / "exploration" / "records").records
    tables = comparisons(records)
    closed, opened = [], []
    for table in tables:
        title = f"{table.title}, {table.device}"
        reasons = open_reasons(table, trials)
        if reasons:
            apart = nearest(table, tables)
            opened += [f"open: {title}", *(f"  {line}" for line in (*reasons, *([apart] if apart else [])))]
        else:
            seeds = sorted({record["seed"] for record in table.rows[0].records})
            closed.append(f"closed: {title}: {len(table.rows)} rows, seeds {', '.join(map(str, seeds))}")
        (opened if reasons else closed).extend(explored(table, trials, others))
    summary = f"{len(folder.records)} records, of {checked} of them detections are there and were evaluated"
    lines = [printable(line) for line in (*closed, *opened, *wrong, summary)]
    return lines, 1 if opened or wrong else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, 1 if a table is open or a record was edited, 2 for invalid input."""
    parser = CommandParser(prog="python -m bench.verify", description=__doc__)
    add_results(parser)

    def action(options: argparse.Namespace) -> int:
        lines, code = verify(options.results or default_results())
        print("\n".join(lines))
        return code

    return run_command(parser, arguments, action)


if __name__ == "__main__":
    sys.exit(main())
