"""The committed evidence on real footage: head-only on I3D features stands where the official code stands."""

import json
import re
import shutil
import statistics
from pathlib import Path

import pytest

from bench.config.arguments import pairs
from bench.config.overrides import override
from bench.config.presets import default_protocol
from bench.detection.evaluation import evaluate
from bench.detection.submission import read_ground_truth, read_submission
from bench.records.paths import detections_path
from bench.records.record import read_folder
from bench.report import build

RESULTS = Path(__file__).parents[1] / "results" / "footage"
ANNOTATIONS = Path(__file__).parents[2] / "shared" / "data" / "stitched" / "annotations.json"
RECORDS = read_folder(RESULTS / "records").records
OFFICIAL = 71.1
"""Average mAP (%) of the official ActionFormer code on frozen I3D features of these videos at 128 pixels, 60
epochs, one seed."""


def averages(name, image_size):
    """Return average mAP in percent by seed."""
    return {
        record["seed"]: 100 * record["metrics"]["map_average"]
        for record in RECORDS
        if record["strategy"]["name"] == name and record["protocol"]["image_size"] == image_size
    }


def test_head_only_is_where_the_official_code_is():
    found = averages("head-only", 128)
    assert sorted(found) == [0, 1, 2]
    assert abs(statistics.fmean(found.values()) - OFFICIAL) <= 3
    for record in RECORDS:  # shown with -rP
        print(f"{record['id']}: {100 * record['metrics']['map_average']:.1f} %")


def test_every_strategy_is_reported_under_one_protocol():
    reduced = [record for record in RECORDS if record["protocol"]["image_size"] == 64]
    assert {r["strategy"]["name"] for r in reduced} == {"head-only", "losa", "lofi", "full-finetune"}
    for size in (64, 128):
        digests = {r["protocol"]["digest"] for r in RECORDS if r["protocol"]["image_size"] == size}
        assert len(digests) == 1


def test_the_commands_of_the_page_give_the_protocols_of_the_records():
    page = (RESULTS.parents[1] / "docs" / "footage.md").read_text(encoding="utf-8")
    commands = re.findall(r"--protocol \\\n +(\S+)", page)
    assert len(commands) == 2
    digests = {
        override(default_protocol("i3d", "cpu"), pairs([command], "--protocol")).digest()
        for command in commands
    }
    assert digests == {record["protocol"]["digest"] for record in RECORDS}


def test_records_are_clean_and_name_no_place():
    assert all(record["status"] == "ok" and record["environment"]["dirty"] is False for record in RECORDS)
    assert len({record["weights"]["sha256"] for record in RECORDS}) == 1
    for path in sorted((RESULTS / "records").glob("*.json")):
        assert not re.search(r'"(/|~|[A-Za-z]:\\)', path.read_text()), path.name


def test_the_footages_annotations_stay_outside():
    assert not (RESULTS / "ground_truth").exists()
    assert not list((RESULTS / "figures").glob("*timeline*"))


@pytest.mark.skipif(not ANNOTATIONS.exists(), reason="the footage's annotations are not beside the checkout")
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["id"])
def test_detections_give_the_recorded_map(record):
    truth = read_ground_truth(ANNOTATIONS, record["protocol"]["evaluation_subset"])
    found = read_submission(detections_path(RESULTS, record["id"]))
    evaluation = evaluate(truth, found, tuple(record["protocol"]["tiou"]))
    assert evaluation.average == pytest.approx(record["metrics"]["map_average"], abs=1e-9)


def test_regenerating_changes_no_table(tmp_path):
    for name in ("records", "detections"):
        shutil.copytree(RESULTS / name, tmp_path / name)
    for path in build(tmp_path).files:
        committed = RESULTS / path.relative_to(tmp_path)
        assert committed.exists(), committed
        if path.suffix in (".csv", ".md"):
            assert path.read_bytes() == committed.read_bytes(), path.name


LEAKS = RESULTS / "leaks"
RULES = {
    "one-class": "one class for all",
    "most-frequent": "most frequent",
    "nearest-colours": "mean frame",
    "shuffled-labels": "labels permuted",
    "true-labels": "the true labels",
}


@pytest.mark.parametrize("rule", RULES)
def test_the_page_states_what_the_controls_gave(rule):
    page = (RESULTS.parents[1] / "docs" / "footage.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("|") and RULES[rule] in line]
    recorded = json.loads((LEAKS / f"{rule}.json").read_text())
    assert row.split("|")[-2].strip() == f"{100 * recorded['average']:.1f}"


@pytest.mark.skipif(not ANNOTATIONS.exists(), reason="the footage's annotations are not beside the checkout")
@pytest.mark.parametrize("rule", [name for name in RULES if name != "one-class"])
def test_the_controls_detections_give_the_recorded_map(rule):
    (path,) = LEAKS.glob(f"{rule}-detections.json*")
    found = read_submission(path)
    recorded = json.loads((LEAKS / f"{rule}.json").read_text())
    evaluation = evaluate(read_ground_truth(ANNOTATIONS, "testing"), found, tuple(recorded["tiou"]))
    assert evaluation.average == pytest.approx(recorded["average"], abs=1e-9)
