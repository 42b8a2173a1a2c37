"""The committed evidence: records that the tables follow from, detections that the records follow from."""

import json
import shutil
import statistics
from pathlib import Path

import pytest

from bench.detection.evaluation import evaluate
from bench.detection.submission import read_ground_truth, read_submission
from bench.record import detections_path, ground_truth_path, read_folder
from bench.report import build

RESULTS = Path(__file__).parents[1] / "results"
FOLDER = read_folder(RESULTS / "records")
MINIATURE = [record for record in FOLDER.records if record["dataset"]["name"] == "miniature"]


def averages(name):
    """Return average mAP in percent by seed."""
    rows = [record for record in MINIATURE if record["strategy"]["name"] == name]
    return {record["seed"]: 100 * record["metrics"]["map_average"] for record in rows}


def test_every_committed_file_is_a_record():
    assert FOLDER.problems == ()
    assert all(
        record["environment"]["dirty"] is False for record in FOLDER.records if record["status"] == "ok"
    )


def test_five_seeds_of_every_strategy():
    for name in ("head-only", "lofi", "full-finetune", "losa", "capacity-control"):
        assert sorted(averages(name)) == [0, 1, 2, 3, 4]
    assert len({record["protocol"]["digest"] for record in MINIATURE}) == 1


def test_adaptation_pays_on_the_miniature():
    baseline = averages("head-only")
    assert 15 <= statistics.fmean(baseline.values()) <= 60
    for name in ("losa", "full-finetune"):
        assert all(value - baseline[seed] >= 5 for seed, value in averages(name).items()), name
    assert statistics.fmean(averages("lofi").values()) - statistics.fmean(baseline.values()) >= 2


def test_step_peaks_are_ordered():
    peaks = {r["strategy"]["name"]: r["memory"]["peak_allocated_bytes"] for r in MINIATURE}
    joint = max(
        stage["peak_allocated_bytes"]
        for record in MINIATURE
        for stage in record["memory"]["stages"]
        if record["strategy"]["name"] == "lofi" and stage["stage"] == "joint"
    )
    assert peaks["head-only"] < peaks["losa"] < peaks["full-finetune"]
    assert joint <= 0.6 * peaks["full-finetune"]


@pytest.mark.parametrize("record", MINIATURE, ids=lambda record: record["id"])
def test_detections_give_the_recorded_map(record):
    truth = read_ground_truth(ground_truth_path(RESULTS, record), record["protocol"]["evaluation_subset"])
    found = read_submission(detections_path(RESULTS, record["id"]))
    evaluation = evaluate(truth, found, tuple(record["protocol"]["tiou"]))
    assert evaluation.average == pytest.approx(record["metrics"]["map_average"], abs=1e-9)


def test_regenerating_changes_no_table(tmp_path):
    for name in ("records", "ground_truth", "detections", "forecasts", "memory", "published"):
        if (RESULTS / name).exists():
            shutil.copytree(RESULTS / name, tmp_path / name)
    files = build(tmp_path).files
    for path in files:
        committed = RESULTS / path.relative_to(tmp_path)
        assert committed.exists(), committed
        if path.suffix in (".csv", ".md", ".tex"):
            assert path.read_bytes() == committed.read_bytes(), path.name


def test_trials_were_equal_in_number_and_took_no_test_video():
    trials = read_folder(RESULTS / "tuning" / "records").records
    names = [record["strategy"]["name"] for record in trials]
    assert len({names.count(name) for name in names}) == 1
    assert {record["protocol"]["evaluation_subset"] for record in trials} == {"tuning"}
    assert not {record["seed"] for record in trials} & {record["seed"] for record in MINIATURE}


def test_source_weights_are_those_that_the_note_names():
    from bench.specification import SOURCE_WEIGHTS, file_sha256

    note = json.loads(SOURCE_WEIGHTS.with_suffix(".json").read_text())
    assert note["sha256"] == file_sha256(SOURCE_WEIGHTS)
    assert SOURCE_WEIGHTS.stat().st_size <= 4 * 2**20
    assert all(record["weights"]["sha256"] == note["sha256"] for record in MINIATURE)
