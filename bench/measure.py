"""``python -m bench.measure``: measure memory and time of real training steps, and compare with the forecast.

Takes the options of ``bench.plan`` and runs a few steps of each configuration on this machine's device, with
random weights and frames, on which neither depends. Every row is written as soon as it is measured; existing
rows are not measured again, and a configuration that runs out of memory also gets a row.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import json
import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.io.errors import InputError
from bench.io.exit_code import RUNS_KEPT, run_command
from bench.io.reading import MAX_RECORD_BYTES, read_json
from bench.io.text import printable
from bench.plan.__main__ import parser as plan_parser
from bench.plan.grid import forecast_requests
from bench.plan.request import ForecastRequest


def parser() -> argparse.ArgumentParser:
    """Return the argument parser: the options of ``bench.plan``, and the output folder."""
    result = plan_parser()
    result.prog, result.description = "python -m bench.measure", __doc__
    result.add_argument(
        "--results", type=Path, default=Path("results") / "local", help="rows go to its folder 'memory'"
    )
    result.add_argument("--redo", action="store_true", help="also measure what already has a row")
    result.add_argument("--force", action="store_true", help="measure even on a GPU that is in use")
    return result


def row_path(results: Path, question: ForecastRequest, device_name: str) -> Path:
    """Return the path of a request's row: a readable name and a digest of all its fields."""
    asked = [question.model, question.strategy, question.settings, sorted(question.protocol.items())]
    text = json.dumps([*asked, question.device, device_name, question.classes, question.instances])
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return results / "memory" / f"{question.model}_{question.strategy}_{digest}.json"


def measure_all(options: argparse.Namespace) -> int:
    """Measure the configurations without a row; return 1 if any row has failed."""
    import torch
    from tqdm import tqdm

    from bench.io.writing import write_atomically
    from bench.memory.device import capacity_bytes, check_device_idle, device_name, used_bytes
    from bench.plan.measure import measure
    from bench.report.tables.measured_memory import read_step

    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device: got 'cuda', this machine has none; allowed here is cpu")
    device = torch.device(options.device)
    if device.type == "cuda" and not options.force:
        check_device_idle(device, used_bytes(device), capacity_bytes(device) or 0)
    asked = {row_path(options.results, q, device_name(device)): q for q in forecast_requests(options)}
    context = multiprocessing.get_context("spawn")
    failed = 0
    for path, question in tqdm(asked.items(), desc="measuring", disable=not sys.stderr.isatty()):
        if options.redo or not path.exists():
            # A separate process each, so that peaks and leftovers of an error do not affect the next one.
            with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
                row = pool.submit(measure, question, options.device).result()
            write_atomically(path, json.dumps(row, indent=1, allow_nan=False).encode())
        read_step(path)  # an existing row is untrusted
        row = read_json(path, MAX_RECORD_BYTES, finite=True)
        failed += row["status"] != "ok"
        tqdm.write(printable(line(row)), file=sys.stderr)
    return 1 if failed else 0


def line(row: dict[str, object]) -> str:
    """Return one line on a row: predicted and measured peak in GB and their difference, or the failure."""
    name = f"{row['model']} {row['strategy']} {row['backward']} {row['frames']} x {row['image_size']}"
    predicted, measured = row["predicted_peak_bytes"], row.get("measured")
    assert isinstance(predicted, int)
    if not isinstance(measured, dict):
        return f"{name}: predicted {predicted / 1e9:.3f} GB, {row['status']}: {row.get('message')}"
    peak = measured["peak_allocated_bytes"]
    return (
        f"{name}: predicted {predicted / 1e9:.3f} GB, measured {peak / 1e9:.3f} "
        f"({100 * (predicted / peak - 1):+.2f} %), {measured['seconds_per_step']:.3f} s per step"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    return run_command(parser(), arguments, measure_all, RUNS_KEPT)


if __name__ == "__main__":
    sys.exit(main())
