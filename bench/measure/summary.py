"""One table of all measured rows: predicted, measured, error, time and share of the card's matrix rate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.io.reading import MAX_RECORD_BYTES, read_json
from bench.io.tables import markdown
from bench.io.text import printable
from bench.measure.rows import read_row
from bench.report.tables.forecasts import gigabytes

PROBES = "probes.json"
TITLES = (
    *(
        "model",
        "strategy",
        "backward",
        "frames",
        "px",
        "predicted peak (GB)",
        "measured peak (GB)",
        "error (%)",
    ),
    *("reserved (GB)", "device (GB)", "s/step", "clips/s", "share of matrix rate (%)", "outcome"),
)


def matrix_rate(results: Path) -> tuple[float | None, str | None]:
    """Return the probed matrix rate in operations per second and its device; None where there is none."""
    if not (path := results / PROBES).exists():
        return None, None
    found = read_json(path, MAX_RECORD_BYTES, finite=True)
    rate = found["probes"].get("matrix_rate", {}).get("values", {}).get("bfloat16_operations_per_second")
    return rate, found["environment"]["device"]


def rows_of(results: Path) -> list[dict[str, Any]]:
    """Return all measured rows of a folder, in the order in which they were written."""
    paths = sorted((results / "memory").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return [read_row(path) for path in paths]


def share_of_rate(row: Mapping[str, Any], rate: float | None, device: str | None) -> float | None:
    """Return the operations per second of a step's backbone over the matrix rate of the same device.

    The time is that of the whole step, head and optimizer included. None where one of them is not known, and
    in float32, for which no rate is measured.
    """
    operations, measured = row.get("backbone_operations"), row.get("measured")
    if not (operations and measured and rate) or row["precision"] != "bfloat16":
        return None
    if row["environment"].get("device") != device:
        return None
    return float(operations / measured["seconds_per_step"] / rate)


def summary(results: Path) -> str:
    """Return the table as text; a row whose step failed has the reason in place of its numbers."""
    rate, device = matrix_rate(results)
    lines = []
    for row in rows_of(results):
        measured, predicted = row.get("measured") or {}, row["predicted_peak_bytes"]
        line = [row["model"], row["strategy"], row["backward"], str(row["frames"]), str(row["image_size"])]
        line.append(gigabytes(predicted))
        peak = measured.get("peak_allocated_bytes")
        line += [gigabytes(peak), f"{100 * (predicted / peak - 1):+.2f}" if peak else ""]
        line += [gigabytes(measured.get("peak_reserved_bytes")), gigabytes(measured.get("peak_device_bytes"))]
        line.append(f"{measured['seconds_per_step']:.3f}" if measured else "")
        line.append(f"{measured['clips_per_second']:.1f}" if measured else "")
        share = share_of_rate(row, rate, device)
        line.append("" if share is None else f"{100 * share:.1f}")
        message = "" if row["status"] == "ok" else f": {(row.get('message') or '')[:60]}"
        lines.append([*line, printable(row["status"] + message)])
    head = (
        "matrix rate in bfloat16: not measured"
        if rate is None
        else (f"matrix rate of {device} in bfloat16: {rate / 1e12:.1f} TFLOP/s")
    )
    return f"{head}\n\n{markdown(TITLES, lines, text_columns=3)}" if lines else head
