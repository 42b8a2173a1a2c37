"""Diagnoses made up here, their table by hand, their figures."""

import csv
import io

from made_records import record

from bench.detection.diagnosis import KINDS
from bench.report.tables import comparison as tables
from bench.report.tables import detection_errors


def diagnosis(true_share, missed):
    first = {"detections": 8, **dict.fromkeys(KINDS, 0.0), "true positive": true_share}
    first["background"] = 1 - true_share
    empty = {"detections": 0, **dict.fromkeys(KINDS, 0.0)}
    return {
        "false_positives": [first, *[empty] * 9],
        "gain": dict.fromkeys(KINDS[1:], 0.125),
        "false_negatives": {
            "all": {"instances": 8, "missed": missed},
            "length_seconds": {
                "<= 3": {"instances": 6, "missed": missed},
                "<= 6": {"instances": 2, "missed": 0.0},
                "> 6": {"instances": 0, "missed": None},
            },
        },
    }


def comparison():
    made = [record(seed=s, diagnosis=diagnosis(0.5 + 0.1 * s, 0.25)) for s in (0, 1)]
    return tables.comparisons([*made, record("losa", diagnosis=diagnosis(0.75, 0.125)), record("lofi")])[0]


def test_the_table_holds_means_over_seeds():
    item = comparison()
    text = detection_errors.contents([item])[f"errors_{item.slug}.csv"]
    head_only, losa = csv.DictReader(io.StringIO(text))
    assert (head_only["strategy"], head_only["n"], losa["strategy"]) == ("head-only", "2", "losa")
    assert (head_only["true positive (%)"], head_only["background (%)"]) == ("55.0", "45.0")
    assert losa["gain without background"] == "12.5"
    assert (losa["missed (%)"], losa["missed, <= 3 s (%)"], losa["missed, 3 to 6 s (%)"]) == (
        "12.5",
        "12.5",
        "0.0",
    )
    assert not any("> 6" in name for name in losa), "no instance is that long"


def test_records_without_a_diagnosis_make_neither_table_nor_figure(tmp_path):
    [item] = tables.comparisons([record()])
    assert detection_errors.contents([item]) == {}
    assert detection_errors.draw(item, tmp_path) == []


def test_figures_are_drawn_and_are_the_same_twice(tmp_path):
    first = {path: path.read_bytes() for path in detection_errors.draw(comparison(), tmp_path)}
    assert [path.stem.split("_")[-1] for path in first] == ["false-positives"] * 2 + ["false-negatives"] * 2
    assert {path: path.read_bytes() for path in detection_errors.draw(comparison(), tmp_path)} == first
