"""The committed runs of the papers' variants: records that hold, and tables that follow from them."""

import json
import statistics
from pathlib import Path

import pytest
from evidence import check_detections, check_regeneration

from bench.papers import VARIANTS
from bench.record import read_folder
from strategies import build_strategy
from strategies.base import settings

RESULTS = Path(__file__).parents[1] / "results" / "papers"
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
    main = {r["id"]: r for r in read_folder(RESULTS.parent / "miniature-1" / "records").records}
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


def test_the_readme_tells_what_the_runs_say():
    text = " ".join((RESULTS.parents[1] / "README.md").read_text().split())

    def mean(strategy, weights="vit-t-source.safetensors", **changes):
        wanted = json.loads(json.dumps(settings(build_strategy(strategy, changes))))
        runs = [r for r in FOLDER.records if r["strategy"] == wanted and r["weights"]["name"] == weights]
        assert len(runs) == 3
        return f"{100 * statistics.fmean(run['metrics']['map_average'] for run in runs):.1f}"

    assert (
        f"LoSA has {mean('losa')} with both ranges, {mean('losa', long_range='false')} with the short" in text
    )
    assert f"and {mean('losa', short_range='false')} with the long one alone" in text
    assert f"{mean('losa', taps='-1')} when it taps the last layer only" in text
    assert f"without its gate it has {mean('losa', gated='false')}" in text
    assert f"temporal fidelity alone {mean('lofi', variant='t')}" in text
    assert f"long ({mean('lofi')}) or short ({mean('lofi', variant='short-cyclic')}) cycle" in text
    assert f"Not pre-trained, head-only has {mean('head-only', weights='random')}" in text
