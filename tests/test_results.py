"""The committed evidence: records that the tables follow from, detections that the records follow from."""

import json
import re
import statistics
from pathlib import Path

import pytest
from evidence import check_detections, check_regeneration

from bench.records.record import read_folder
from bench.report.tables import comparison as tables
from strategies import installed

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
    for name in ("head-only", "lofi", "full-finetune", "losa", "mlp-control"):
        assert sorted(averages(name)) == [0, 1, 2, 3, 4]
    assert len({record["protocol"]["digest"] for record in MINIATURE}) == 1


def test_every_seed_gains_over_head_only():
    baseline = averages("head-only")
    assert 15 <= statistics.fmean(baseline.values()) <= 60
    for name in ("losa", "full-finetune", "lofi", "mlp-control"):
        assert all(value > baseline[seed] for seed, value in averages(name).items()), name
    assert all(value - baseline[seed] >= 5 for seed, value in averages("full-finetune").items())
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
    check_detections(RESULTS, record)


def test_regenerating_changes_no_table(tmp_path):
    check_regeneration(RESULTS, tmp_path)


def test_trials_were_equal_in_number_and_took_no_test_video():
    trials = read_folder(RESULTS / "miniature-1" / "tuning" / "records").records
    names = [record["strategy"]["name"] for record in trials]
    assert len({names.count(name) for name in names}) == 1
    assert {record["protocol"]["evaluation_subset"] for record in trials} == {"tuning"}
    assert {record["seed"] for record in trials}.isdisjoint(record["seed"] for record in MINIATURE)


def test_the_guide_to_choices_has_the_table_of_the_two_budgets():
    (comparison,) = tables.comparisons(read_folder(RESULTS / "budgets" / "records").records)
    assert {len(row.records) for row in comparison.rows} == {5}
    text = (RESULTS.parent / "docs" / "choices.md").read_text()
    table = re.search(r"<!-- budgets -->\n(.*?)<!-- /budgets -->", text, re.DOTALL)
    assert table
    assert table.group(1).strip() == tables.short_markdown_table(comparison)


def test_the_page_of_strategies_has_the_table_of_all_of_them():
    (comparison,) = tables.comparisons(read_folder(RESULTS / "strategies" / "records").records)
    assert sorted(row.strategy for row in comparison.rows) == sorted(set(installed()))
    assert all(len(row.finished) == 1 for row in comparison.rows)
    text = (RESULTS.parent / "docs" / "strategies.md").read_text()
    table = re.search(r"<!-- strategies -->\n(.*?)<!-- /strategies -->", text, re.DOTALL)
    assert table
    assert table.group(1).strip() == tables.short_markdown_table(comparison)


def test_source_weights_are_those_that_the_note_names():
    from bench.io.reading import file_sha256
    from bench.models import SOURCE_WEIGHTS

    note = json.loads(SOURCE_WEIGHTS.with_suffix(".json").read_text())
    assert note["sha256"] == file_sha256(SOURCE_WEIGHTS)
    assert SOURCE_WEIGHTS.stat().st_size <= 4 * 2**20
    assert all(record["weights"]["sha256"] == note["sha256"] for record in MINIATURE)
