"""Comparison tables of measured values, gains and forecasts, as CSV, markdown, LaTeX and text."""

from __future__ import annotations

import io
import itertools
import json
import statistics
from collections.abc import Sequence
from typing import Any

import pandas as pd

from bench.io.tables import Cells, bold_best, escape_markdown, latex, markdown, plain, plain_cell
from bench.io.text import printable
from bench.memory.constants import UNCACHED
from bench.records.record import Record
from bench.report.analysis import convergence
from bench.report.analysis.bootstrap import Difference, seed_difference
from bench.report.analysis.differences import baseline_of
from bench.report.grouping import MEGABYTE, Comparison, Row, at_tiou, comparisons, megabytes
from bench.report.tables.outcomes import failures, outcome_lines
from bench.report.tables.timing import explanation, has_processor_seconds, shown_column, timings
from datasets.cards.cards import known_datasets, read_card

__all__ = ["Comparison", "Row", "comparison_csv", "comparison_markdown", "comparisons", "runs_csv"]

PREFACE = (
    "Measured values: means over n seeds, ± the sample standard deviation; s/step is the median over seeds. "
    "Peaks are the largest over seeds; 1 MB is 10^6 bytes. Gain: average mAP over head-only, the mean of the "
    "differences seed by seed (for several source weights, the mean of the sources' means); its 95 % "
    "interval is that of the bootstrap, or where detections are not kept Student's t on these differences, "
    "from three seeds of one source on. "
    "Predicted peaks: the forecast made before the run, no measurement; forecast error: what it is off the "
    "measured training peak, where both are there."
)


def _summary(values: Sequence[float]) -> tuple[float | None, float | None]:
    mean = statistics.fmean(values) if values else None
    return mean, statistics.stdev(values) if len(values) > 1 else None


def gain(comparison: Comparison, row: Row) -> Difference | None:
    """Return a row's gain over head-only; None for that row, or without a head-only row.

    Its interval is the bootstrap's if the comparison has differences, else Student's t over seeds.
    """
    baseline = baseline_of(comparison)
    if baseline is None or row is baseline:
        return None
    if (found := comparison.differences.get((row.label, baseline.label))) is not None:
        return found
    return seed_difference(row.averages, baseline.averages)


def predicted_peak(record: Record) -> int | None:
    """Return the predicted training peak of a run in bytes; None without a forecast."""
    for part in ("forecast", "memory"):
        value = (record.get(part) or {}).get("predicted_peak_bytes")
        if value is not None:
            return int(value)
    return None


def forecast_error(record: Record) -> float | None:
    """Return the relative error of the forecast in percent; positive if it exceeds the measured peak."""
    predicted = predicted_peak(record)
    measured = (record["memory"] or {}).get("peak_allocated_bytes")
    return 100 * (predicted / measured - 1) if predicted is not None and measured else None


def _inference_megabytes(record: Record) -> float:
    return float(record["memory"]["inference"]["peak_allocated_bytes"] / MEGABYTE)


def _predicted_inference_megabytes(record: Record) -> float | None:
    predicted = record["memory"]["inference"].get("predicted_peak_bytes")
    return predicted / MEGABYTE if predicted else None


def peak_steps(row: Row) -> str:
    """Return the kinds of the training steps with the peak, of the row's finished runs."""
    return ", ".join(sorted({record["memory"].get("step") or "" for record in row.finished} - {""}))


def _trainable(record: Record) -> int:
    return int(record["cost"]["trainable_parameters"])


def frame(comparison: Comparison) -> pd.DataFrame:
    """Return a table with one line per row: means over seeds, the sample standard deviation and n."""
    lines = []
    processor = has_processor_seconds(comparison.rows)
    for row in comparison.rows:
        average, spread = _summary(list(row.averages.values()))
        gained = gain(comparison, row)
        line: dict[str, Any] = {"strategy": row.label, "n": len(row.finished)}
        for tiou in comparison.tious:
            percent = row.values(at_tiou(tiou))
            line[f"mAP@{tiou} (%)"] = statistics.fmean(percent) if percent else None
        line["average mAP (%)"], line["sd"] = average, spread
        line["gain"] = gained.mean if gained else None
        line["95 % interval"] = gained.interval if gained else ""
        line |= convergence.columns(comparison, row)
        line["training peak, measured (MB)"] = max(row.values(megabytes), default=None)
        line["inference peak, measured (MB)"] = max(row.values(_inference_megabytes), default=None)
        if any(row.values(_predicted_inference_megabytes) for row in comparison.rows):
            line["inference peak, predicted (MB)"] = max(
                row.values(_predicted_inference_megabytes), default=None
            )
        if any(peak_steps(row) for row in comparison.rows):
            line["step of the peak"] = peak_steps(row)
        predicted = [peak for record in row.records if (peak := predicted_peak(record)) is not None]
        line["predicted peak (MB)"] = max(predicted) / MEGABYTE if predicted else None
        line["forecast error (%)"] = max(row.values(forecast_error), key=abs, default=None)
        line |= timings(row, processor=processor)
        line["trainable parameters"] = max(row.values(_trainable), default=None)
        line["failed"] = failures(row)
        lines.append(line)
    table = pd.DataFrame(lines)
    table["trainable parameters"] = table["trainable parameters"].astype("Int64")
    separation = ("separated", "interval over", "gain by source", "converged")
    texts = ("strategy", "95 % interval", *separation, "step of the peak", "failed")
    numbers = [name for name in table.columns if name not in texts]
    # Columns without any value would otherwise have the type object.
    floats = [name for name in numbers if name not in ("n", "trainable parameters")]
    table[floats] = table[floats].astype("float64")
    return table


def comparison_csv(items: Sequence[Comparison]) -> str:
    """Return all comparisons as CSV; each line includes data set, model, protocol and device."""
    parts = []
    for item in items:
        table = frame(item)
        context = ["dataset", "variant", "model", "weights", "digest", "device"]
        context += ["pictures"] if any(each.pictures for each in items) else []
        context += ["classifier"] if any(each.classifier for each in items) else []
        for position, name in enumerate(context):
            table.insert(position, "protocol" if name == "digest" else name, getattr(item, name))
        parts.append(table)
    return _csv(pd.concat(parts, ignore_index=True))


def _csv(table: pd.DataFrame) -> str:
    for name in table.columns:
        if table[name].dtype == object or isinstance(table[name].dtype, pd.StringDtype):
            table[name] = [plain_cell(value) if isinstance(value, str) else value for value in table[name]]
    text = io.StringIO()
    table.to_csv(text, index=False, float_format="%.4f", lineterminator="\n")
    return text.getvalue()


def runs_csv(records: Sequence[Record]) -> str:
    """Return all records as CSV, one line per record."""
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
                "variant": record["dataset"]["variant"],
                "backward": record["protocol"].get("backward"),
                "seed": record["seed"],
                "map_average": metrics.get("map_average"),
                "peak_allocated_bytes": memory.get("peak_allocated_bytes"),
                "predicted_peak_bytes": predicted_peak(record),
                "seconds_per_step": cost.get("seconds_per_step"),
                "wall_seconds": cost.get("wall_seconds"),
                "device": record["environment"].get("device"),
                "commit": record["environment"].get("commit"),
            }
        )
        if "cpu_seconds_per_step" in cost:
            lines[-1]["cpu_seconds_per_step"] = cost["cpu_seconds_per_step"]
    table = pd.DataFrame(lines)
    for name in ("peak_allocated_bytes", "predicted_peak_bytes"):
        table[name] = table[name].astype("Int64")
    return _csv(table)


def printed(comparison: Comparison) -> tuple[str, ...]:
    """Return the thresholds with columns: those that papers report for a known data set, else all."""
    if comparison.dataset in known_datasets():
        wanted = tuple(f"{tiou:g}" for tiou in read_card(comparison.dataset).printed_tiou)
        if set(wanted) <= set(comparison.tious):
            return wanted or comparison.tious
    return comparison.tious


def cells(comparison: Comparison, *, thresholds: bool = True) -> tuple[list[str], list[list[str]]]:
    """Return header and formatted text cells; empty where there is no value.

    Without ``thresholds``, the columns of single tIoUs are omitted; CSV files always have all of them.
    """

    def show(value: Any, digits: int) -> str:
        return "" if value is None or pd.isna(value) else f"{value:,.{digits}f}"

    def signed(value: Any) -> str:
        return "" if pd.isna(value) else f"{value:+.1f}"

    tious = printed(comparison) if thresholds else ()
    table = frame(comparison)
    # Records of earlier versions have neither.
    with_inference = "inference peak, predicted (MB)" in table
    timing = shown_column(table)
    with_step = any(step not in ("", UNCACHED) for step in table.get("step of the peak", ()))
    header = [
        "strategy",
        "n",
        *(f"mAP@{tiou}" for tiou in tious),
        "average mAP (%)",
        "gain",
        "95 % interval",
        *(["separated"] if "separated" in table else []),
        *(["last half"] if "last half, tuning videos" in table else []),
        *(["converged"] if "converged" in table else []),
        "training peak (MB)",
        *(["step of the peak"] if with_step else []),
        "predicted peak (MB)",
        "forecast error (%)",
        "inference peak (MB)",
        *(["predicted inference peak (MB)"] if with_inference else []),
        timing,
        "trainable",
    ]
    lines = []
    for row, (_, line) in zip(comparison.rows, table.iterrows(), strict=True):
        average = show(line["average mAP (%)"], 1)
        if not pd.isna(line["sd"]):
            average += f" ± {line['sd']:.1f}"
        texts = [line["strategy"], str(line["n"])]
        texts += [show(line[f"mAP@{tiou} (%)"], 1) for tiou in tious]
        interval = convergence.interval_text(comparison, row, line["95 % interval"])
        texts += [average, signed(line["gain"]), interval]
        texts += [line["separated"]] if "separated" in table else []
        texts += [signed(line[half])] if (half := "last half, tuning videos") in table else []
        texts += [line["converged"]] if "converged" in table else []
        texts += [show(line["training peak, measured (MB)"], 1)]
        texts += [line["step of the peak"]] if with_step else []
        texts += [show(line["predicted peak (MB)"], 1), signed(line["forecast error (%)"])]
        texts += [show(line["inference peak, measured (MB)"], 1)]
        texts += [show(line["inference peak, predicted (MB)"], 1)] if with_inference else []
        lines.append([*texts, show(line[timing], 3), show(line["trainable parameters"], 0)])
    return header, lines


def markdown_table(item: Comparison) -> str:
    """Return a comparison's rows as a markdown table, with the best mAP of each column in bold."""
    header, lines = cells(item)
    return markdown(header, lines, bold=_best(header, lines))


def short_markdown_table(item: Comparison) -> str:
    """Return the markdown table without the columns of single tIoUs, as in the README."""
    header, lines = cells(item, thresholds=False)
    return markdown(header, lines, bold=_best(header, lines))


def _best(header: Sequence[str], lines: Sequence[Sequence[str]]) -> Cells:
    return bold_best(header, lines, [name for name in header if "mAP" in name])


def comparison_markdown(items: Sequence[Comparison]) -> str:
    """Return all comparisons as markdown, one section each."""
    parts = ["\n\n".join(["# Comparisons", PREFACE + explanation(items), *convergence.remarks(items)])]
    for item in items:
        said = (*convergence.baseline_lines(item), *outcome_lines(item))
        failed = "".join(f"\n\n{escape_markdown(text)}" for text in said)
        title = f"## {escape_markdown(item.title)}\n\nDevice: {escape_markdown(item.device)}"
        parts.append(f"{title}\n\n{markdown_table(item)}{failed}")
    return "\n\n".join(parts) + "\n"


def comparison_latex(items: Sequence[Comparison]) -> str:
    """Return all comparisons as LaTeX tables (booktabs)."""
    tables = [(item, *cells(item)) for item in items]
    return "\n".join(
        latex(header, lines, f"{item.title}. Device: {item.device}.", bold=_best(header, lines))
        for item, header, lines in tables
    )


def plain_text(comparison: Comparison) -> str:
    """Return a comparison as plain text for the terminal."""
    failed = [*convergence.baseline_lines(comparison), *outcome_lines(comparison)]
    title = [comparison.title, f"device: {comparison.device}", ""]
    lines = (printable(line) for line in (*title, *failed))
    return "\n".join([*itertools.islice(lines, len(title)), plain(*cells(comparison)), *lines])
