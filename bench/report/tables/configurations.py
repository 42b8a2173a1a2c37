"""Details of a row: its configuration, the difference from the baseline, and the environment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from bench.records.record import Record, dataset_settings
from bench.report.analysis.differences import BASELINE
from bench.report.grouping import Comparison, Row

Detail = tuple[str, str]
"""A summary and the expandable text below it."""


def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the fields of a nested configuration as dotted names and JSON values."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from flat(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, json.dumps(value)


def configuration(record: Record) -> dict[str, str]:
    """Return a run's configuration without the seed, by dotted name."""
    parts = {name: record[name] for name in ("model", "dataset", "weights", "strategy", "protocol")}
    parts["dataset"] = dataset_settings(record)
    parts["weights"] = {name: parts["weights"].get(name) for name in ("name", "sha256")}
    return dict(flat(parts))


def difference(record: Record, baseline: Record) -> list[str]:
    """Return one line for each field of the configuration that differs from the baseline's."""
    mine, other = configuration(record), configuration(baseline)
    return [
        f"{name}: {other.get(name, 'absent')} → {mine.get(name, 'absent')}"
        for name in {**other, **mine}
        if mine.get(name) != other.get(name)
    ]


def details(comparison: Comparison) -> tuple[Detail, ...]:
    """Return the details of each row: difference from head-only, configuration and runs."""
    baselines = [row for row in comparison.rows if row.strategy == BASELINE]
    return tuple(
        (row.label, _text(row, baselines[0] if len(baselines) == 1 else None)) for row in comparison.rows
    )


def _text(row: Row, baseline: Row | None) -> str:
    first = row.records[0]
    lines = []
    if baseline is not None and baseline is not row:
        changed = difference(first, baseline.records[0]) or ["none"]
        lines += [f"Difference from {BASELINE}:", *(f"  {line}" for line in changed), ""]
    lines += ["Configuration:", *(f"  {name}: {value}" for name, value in configuration(first).items()), ""]
    runs: dict[str, list[str]] = {}
    for record in row.records:
        text = "\n".join(f"  {name}: {value}" for name, value in flat(record["environment"]) if name)
        runs.setdefault(text or "  not known: it died before it could tell", []).append(
            f"  seed {record['seed']}: {record['id']}, {record['status']}"
        )
    for environment, members in runs.items():
        lines += ["Runs:", *members, "in the environment:", environment, ""]
    return "\n".join(lines).rstrip()
