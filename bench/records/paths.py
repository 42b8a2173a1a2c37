"""Paths of the files in a results folder, and the option ``--results``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = ("records", "detections", "ground_truth", "checkpoints", "unfinished", "tables", "figures")
WORK = ("locks", "progress", "jobs")
"""Subfolders used only while runs are active."""


def detections_path(results: Path, identifier: str) -> Path:
    """Return the path of a run's detections."""
    return results / "detections" / f"{identifier}.json.gz"


def checkpoint_path(results: Path, identifier: str) -> Path:
    """Return the path of a run's saved weights (``--keep-weights``)."""
    return results / "checkpoints" / f"{identifier}.safetensors"


def unfinished_path(results: Path, identifier: str) -> Path:
    """Return the path of the checkpoint from which an unfinished run resumes."""
    return results / "unfinished" / f"{identifier}.pt"


def ground_truth_path(results: Path, record: Mapping[str, Any]) -> Path:
    """Return the path of the ground truth that a run was evaluated against."""
    subset = re.sub(r"[^A-Za-z0-9.-]+", "-", record["protocol"]["evaluation_subset"])
    return results / "ground_truth" / f"{record['dataset']['annotation_sha256'][:12]}_{subset}.json.gz"


def default_results() -> Path:
    """Return ``results/local`` if it has records, else the folder of the shipped results."""
    own = Path("results") / "local"
    return own if any((own / "records").glob("*.json")) else Path("results")


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--results``; without it, callers use ``default_results``."""
    parser.add_argument(
        "--results",
        type=Path,
        help="folder that holds records/ (default: results/local if it has runs, else results)",
    )
