"""Comparison tables: what shares a table, its rows over seeds, and their CSV, markdown and plain text."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from bench.record import Record

MEGABYTE = 1e6


@dataclasses.dataclass(frozen=True)
class Row:
    """One strategy with one set of hyper-parameters, over its seeds."""

    label: str
    records: tuple[Record, ...]

    @property
    def finished(self) -> tuple[Record, ...]:
        return tuple(record for record in self.records if record["status"] == "ok")

    @property
    def failed(self) -> tuple[Record, ...]:
        return tuple(record for record in self.records if record["status"] != "ok")

    def values(self, pick: Callable[[Record], float | None]) -> list[float]:
        """Return a figure of every finished run that has it."""
        return [value for record in self.finished if (value := pick(record)) is not None]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Rows that may be compared: same data, model, weights, protocol and device."""

    dataset: str
    variant: str
    model: str
    weights: str
    digest: str
    device: str
    tious: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def slug(self) -> str:
        """A file name of its own for the comparison."""
        text = "_".join(
            (self.dataset, self.model, self.weights.removesuffix(".safetensors"), self.digest[:6])
        )
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)

    @property
    def title(self) -> str:
        parts = (f"{self.dataset} ({self.variant})", self.model, f"weights {self.weights}")
        return ", ".join((*parts, f"protocol {self.digest[:8]}"))


def _key(record: Record) -> tuple[str, ...]:
    # A run that died early does not know its device; it belongs to the comparison of its protocol.
    dataset, weights = record["dataset"], record["weights"]
    return (
        dataset["name"],
        dataset["variant"],
        dataset["annotation_sha256"],
        record["model"],
        weights["name"],
        str(weights["sha256"]),
        record["protocol"]["digest"],
    )


def comparisons(records: Sequence[Record]) -> list[Comparison]:
    """Return the comparisons in the order of their names; each record is in exactly one."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(_key(record), []).append(record)
    found = []
    for key in sorted(groups):
        group = groups[key]
        devices = sorted({r["environment"]["device"] for r in group if r["environment"].get("device")}) or [
            "unknown"
        ]
        for device in devices:
            members = [r for r in group if r["environment"].get("device", devices[0]) == device]
            tious = tuple(f"{tiou:g}" for tiou in members[0]["protocol"]["tiou"])
            found.append(Comparison(key[0], key[1], key[3], key[4], key[6], device, tious, _rows(members)))
    return found


def _rows(records: Sequence[Record]) -> tuple[Row, ...]:
    """Return the rows: strategies by name, head-only (the baseline) first."""
    by_settings: dict[str, list[Record]] = {}
    for record in records:
        by_settings.setdefault(json.dumps(record["strategy"], sort_keys=True), []).append(record)
    strategies = [json.loads(text) for text in by_settings]
    rows = []
    for settings, members in zip(strategies, by_settings.values(), strict=True):
        alike = [other for other in strategies if other["name"] == settings["name"]]
        differing = sorted(k for k in settings if any(other.get(k) != settings[k] for other in alike))
        label = settings["name"]
        if differing:
            label += f" ({', '.join(f'{k}={settings[k]}' for k in differing)})"
        rows.append(Row(label, tuple(sorted(members, key=lambda r: int(r["seed"])))))
    return tuple(sorted(rows, key=lambda row: (row.records[0]["strategy"]["name"] != "head-only", row.label)))


def at_tiou(tiou: str) -> Callable[[Record], float]:
    return lambda record: 100 * float(record["metrics"]["map"][tiou])


def _summary(values: Sequence[float]) -> tuple[float | None, float | None]:
    mean = statistics.fmean(values) if values else None
    return mean, statistics.stdev(values) if len(values) > 1 else None


def frame(comparison: Comparison) -> pd.DataFrame:
    """Return one line a row: means over seeds, the spread (sample standard deviation) and n."""
    lines = []
    for row in comparison.rows:
        average, spread = _summary(row.values(lambda r: 100 * r["metrics"]["map_average"]))
        line: dict[str, Any] = {"strategy": row.label, "n": len(row.finished)}
        for tiou in comparison.tious:
            line[f"mAP@{tiou} (%)"] = _summary(row.values(at_tiou(tiou)))[0]
        line["average mAP (%)"], line["sd"] = average, spread
        megabytes = row.values(lambda r: r["memory"]["peak_allocated_bytes"] / MEGABYTE)
        line["training peak, measured (MB)"] = max(megabytes, default=None)
        line["inference peak, measured (MB)"] = max(
            row.values(lambda r: r["memory"]["inference"]["peak_allocated_bytes"] / MEGABYTE), default=None
        )
        # The median: one run that shared its machine must not make a strategy look slow.
        seconds = row.values(lambda r: r["cost"]["seconds_per_step"])
        line["s/step"] = statistics.median(seconds) if seconds else None
        line["trainable parameters"] = max(
            row.values(lambda r: r["cost"]["trainable_parameters"]), default=None
        )
        line["failed"] = "; ".join(
            f"seed {r['seed']}: {r['status']} in {r['phase']} ({r['message']})" for r in row.failed
        )
        lines.append(line)
    table = pd.DataFrame(lines)
    table["trainable parameters"] = table["trainable parameters"].astype("Int64")
    return table


def comparison_csv(items: Sequence[Comparison]) -> str:
    """Return all comparisons as CSV, each line with what it was measured on."""
    parts = []
    for item in items:
        table = frame(item)
        context = ("dataset", "variant", "model", "weights", "digest", "device")
        for position, name in enumerate(context):
            table.insert(position, "protocol" if name == "digest" else name, getattr(item, name))
        parts.append(table)
    return _csv(pd.concat(parts, ignore_index=True))


def _csv(table: pd.DataFrame) -> str:
    text = io.StringIO()
    table.to_csv(text, index=False, float_format="%.4f", lineterminator="\n")
    return text.getvalue()


def runs_csv(records: Sequence[Record]) -> str:
    """Return one line a record."""
    lines = []
    for record in records:
        metrics, memory, cost = (record[name] or {} for name in ("metrics", "memory", "cost"))
        lines.append(
            {
                "id": record["id"],
                "status": record["status"],
                "phase": record["phase"],
                "message": record["message"],
                "strategy": json.dumps(record["strategy"], sort_keys=True),
                "seed": record["seed"],
                "map_average": metrics.get("map_average"),
                "peak_allocated_bytes": memory.get("peak_allocated_bytes"),
                "predicted_peak_bytes": memory.get("predicted_peak_bytes"),
                "seconds_per_step": cost.get("seconds_per_step"),
                "wall_seconds": cost.get("wall_seconds"),
                "device": record["environment"].get("device"),
                "commit": record["environment"].get("commit"),
            }
        )
    table = pd.DataFrame(lines)
    for name in ("peak_allocated_bytes", "predicted_peak_bytes"):
        table[name] = table[name].astype("Int64")
    return _csv(table)


def cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the header and the text cells that people read; empty where nothing was measured."""

    def show(value: Any, digits: int) -> str:
        return "" if value is None or pd.isna(value) else f"{value:,.{digits}f}"

    header = [
        "strategy",
        "n",
        *(f"mAP@{tiou}" for tiou in comparison.tious),
        "average mAP (%)",
        "training peak (MB)",
        "inference peak (MB)",
        "s/step",
        "trainable",
    ]
    lines = []
    for _, line in frame(comparison).iterrows():
        average = show(line["average mAP (%)"], 1)
        if not pd.isna(line["sd"]):
            average += f" ± {line['sd']:.1f}"
        texts = [line["strategy"], str(line["n"])]
        texts += [show(line[f"mAP@{tiou} (%)"], 1) for tiou in comparison.tious]
        texts += [average, show(line["training peak, measured (MB)"], 1)]
        texts += [show(line["inference peak, measured (MB)"], 1), show(line["s/step"], 3)]
        lines.append([*texts, show(line["trainable parameters"], 0)])
    return header, lines


def _failures(comparison: Comparison) -> list[str]:
    table = frame(comparison)
    return [f"{line['strategy']}: {line['failed']}" for _, line in table.iterrows() if line["failed"]]


def markdown_table(item: Comparison) -> str:
    """Return a comparison's rows as a markdown table."""
    header, lines = cells(item)
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(map(_escape, line)) + " |" for line in (header, rule, *lines))


def comparison_markdown(items: Sequence[Comparison]) -> str:
    """Return all comparisons as markdown, one section each."""
    parts = [
        "# Comparisons\n\nMeasured values: means over n seeds, ± the sample standard deviation; "
        "s/step is the median over seeds. Peaks are the largest over seeds; 1 MB is 10^6 bytes."
    ]
    for item in items:
        failures = "".join(f"\n\nFailed: {_escape(text)}" for text in _failures(item))
        title = f"## {_escape(item.title)}\n\nDevice: {_escape(item.device)}"
        parts.append(f"{title}\n\n{markdown_table(item)}{failures}")
    return "\n\n".join(parts) + "\n"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def plain_text(comparison: Comparison) -> str:
    """Return a comparison for the terminal."""
    header, lines = cells(comparison)
    widths = [max(len(line[i]) for line in (header, *lines)) for i in range(len(header))]
    rows = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in (header, *lines)
    ]
    failures = [f"failed: {text}" for text in _failures(comparison)]
    return "\n".join([comparison.title, f"device: {comparison.device}", "", *rows, *failures])
