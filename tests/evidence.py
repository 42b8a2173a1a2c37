"""What every committed folder of results keeps: mAP follows from detections, and tables from records."""

import shutil
from pathlib import Path

import pytest

from bench.detection.evaluation import evaluate
from bench.detection.submission import read_ground_truth, read_submission
from bench.records.paths import detections_path, ground_truth_path
from bench.records.record import Record
from bench.report import build

SOURCES = (
    *("records", "ground_truth", "detections", "bootstrap", "forecasts"),
    *("memory", "anchors", "published"),
)


def check_detections(results: Path, record: Record) -> None:
    """Evaluate a record's detections again and compare with the average mAP that it holds."""
    truth = read_ground_truth(ground_truth_path(results, record), record["protocol"]["evaluation_subset"])
    found = read_submission(detections_path(results, record["id"]))
    evaluation = evaluate(truth, found, tuple(record["protocol"]["tiou"]))
    assert evaluation.average == pytest.approx(record["metrics"]["map_average"], abs=1e-9)


def check_regeneration(results: Path, elsewhere: Path) -> tuple[Path, ...]:
    """Build the report of a folder again elsewhere, compare every table, and return the files built."""
    for name in SOURCES:
        if (results / name).exists():
            shutil.copytree(results / name, elsewhere / name)
    files = build(elsewhere).files
    for path in files:
        committed = results / path.relative_to(elsewhere)
        assert committed.exists(), committed
        if path.suffix in (".csv", ".md", ".tex"):
            assert path.read_bytes() == committed.read_bytes(), path.name
    return files
