"""The committed runs of the papers' variants: records that hold, and tables that follow from them."""

import json
from pathlib import Path

import pytest
from evidence import check_detections, check_regeneration

from bench.papers import VARIANTS
from bench.records.record import read_folder
from strategies import build_strategy
from strategies.base import settings

RESULTS = Path(__file__).parents[1] / "results" / "miniature-1" / "papers"
FOLDER = read_folder(RESULTS / "records")


def test_every_variant_ran_under_one_protocol():
    assert FOLDER.problems == ()
    assert {record["status"] for record in FOLDER.records} == {"ok"}
    assert not any(record["environment"]["dirty"] for record in FOLDER.records)
    assert len({record["protocol"]["digest"] for record in FOLDER.records}) == 1
    for variant in VARIANTS:
        wanted = json.loads(json.dumps(settings(build_strategy(variant.strategy, variant.settings))))
        weights = "random" if variant.weights == "random" else "vit-t-source.safetensors"
        runs = [r for r in FOLDER.records if r["strategy"] == wanted and r["weights"]["name"] == weights]
        assert len({record["seed"] for record in runs}) == len(runs) == 3, variant


def test_defaults_are_the_runs_of_the_main_table():
    main = {r["id"]: r for r in read_folder(RESULTS.parent / "records").records}
    shared = [record for record in FOLDER.records if record["id"] in main]
    assert {record["strategy"]["name"] for record in shared} >= {"head-only", "losa", "lofi"}
    for record in shared:
        assert record["metrics"] == main[record["id"]]["metrics"], record["id"]


@pytest.mark.parametrize("record", FOLDER.records, ids=lambda record: record["id"])
def test_detections_give_the_recorded_map(record):
    check_detections(RESULTS, record)


def test_regenerating_changes_no_table(tmp_path):
    files = check_regeneration(RESULTS, tmp_path)
    assert {path.name for path in files if path.name.startswith("ablation_")}
