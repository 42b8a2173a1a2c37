"""Where files may be written: in the folders that were named, not where a link in them leads."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from bench.records.record import (
    Record,
)

RESULTS = ("records", "detections", "ground_truth", "checkpoints", "unfinished", "tables", "figures")
WORK = ("locks", "progress", "jobs")
"""Of results, while runs go on."""


def detections_path(results: Path, identifier: str) -> Path:
    """Return where a run's detections lie."""
    return results / "detections" / f"{identifier}.json.gz"


def checkpoint_path(results: Path, identifier: str) -> Path:
    """Return where the weights of a run lie that was asked to keep them."""
    return results / "checkpoints" / f"{identifier}.safetensors"


def unfinished_path(results: Path, identifier: str) -> Path:
    """Return where the checkpoint of a run lies that has not ended well yet."""
    return results / "unfinished" / f"{identifier}.pt"


def ground_truth_path(results: Path, record: Record) -> Path:
    """Return where the ground truth that a run was evaluated against lies."""
    subset = re.sub(r"[^A-Za-z0-9.-]+", "-", record["protocol"]["evaluation_subset"])
    return results / "ground_truth" / f"{record['dataset']['annotation_sha256'][:12]}_{subset}.json.gz"


def default_results() -> Path:
    """Return the folder of this machine's own runs, or that of the shipped ones where there are none."""
    own = Path("results") / "local"
    return own if any((own / "records").glob("*.json")) else Path("results")


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the folder to read; where it is not given, ``default_results`` is meant."""
    parser.add_argument(
        "--results",
        type=Path,
        help="folder that holds records/ (default: results/local if it has runs, else results)",
    )
