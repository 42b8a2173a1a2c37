"""Tables and figures from records made up here, with numbers that can be worked out by hand."""

import csv
import io
import json
import statistics

import pytest

from bench.errors import InputError
from bench.record import write_record
from bench.report import build, tables
from bench.report.__main__ import main

TIOU = (0.3, 0.5)


def record(
    strategy="head-only", seed=0, average=0.3, peak=5_000_000, status="ok", digest="d" * 64, **changes
):
    ok = status == "ok"
    settings = {"name": strategy, "lr": 1.0, **changes.pop("settings", {})}
    return {
        "schema": 1,
        "id": f"mini_vit-t_{strategy}_seed{seed}_{digest[:4]}{len(str(settings))}",
        "status": status,
        "phase": None if ok else "end-to-end",
        "message": None if ok else "too <big> | much",
        "model": "vit-t",
        "strategy": settings,
        "dataset": {"name": "mini", "variant": "v1", "annotation_sha256": "a" * 64},
        "protocol": {"digest": digest, "tiou": list(TIOU), "evaluation_subset": "testing"},
        "seed": seed,
        "metrics": {"map": {"0.3": average + 0.1, "0.5": average - 0.1}, "map_average": average}
        if ok
        else None,
        "memory": {
            "meter": "cpu-tensors",
            "peak_allocated_bytes": peak,
            "predicted_peak_bytes": None,
            "inference": {"peak_allocated_bytes": peak // 2},
        }
        if ok
        else None,
        "cost": {"seconds_per_step": 0.1, "trainable_parameters": 1234, "total_parameters": 9999}
        if ok
        else None,
        "training": {"loss": [[10, 1.0, 0.5], [20, 0.5, 0.2]]} if ok else None,
        "weights": {"name": "source.safetensors", "sha256": "b" * 64},
        "environment": {"device": "test processor"} if ok else {},
        **changes,
    }


def folder(tmp_path, *records):
    for item in records:
        write_record(tmp_path / "records", item)
    return tmp_path


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_mean_spread_and_n_over_seeds():
    averages = [0.30, 0.34, 0.41]
    [comparison] = tables.comparisons(
        [record(seed=i, average=a, peak=10**6 * (i + 1)) for i, a in enumerate(averages)]
    )
    [row] = rows(tables.comparison_csv([comparison]))
    assert float(row["average mAP (%)"]) == pytest.approx(35.0)
    assert float(row["sd"]) == pytest.approx(100 * statistics.stdev(averages), abs=1e-4)
    assert row["n"] == "3"
    assert float(row["mAP@0.3 (%)"]) == pytest.approx(45.0)
    assert float(row["training peak, measured (MB)"]) == pytest.approx(3.0)
    assert "35.0 ± 5.6" in tables.comparison_markdown([comparison])


def test_one_seed_has_no_spread():
    [comparison] = tables.comparisons([record()])
    assert rows(tables.comparison_csv([comparison]))[0]["sd"] == ""
    assert "±" not in tables.plain_text(comparison)


def test_other_protocols_data_and_weights_share_no_table():
    other_data = record(dataset={"name": "mini", "variant": "v1", "annotation_sha256": "c" * 64})
    other_weights = record(weights={"name": "random", "sha256": None})
    found = tables.comparisons([record(), record(digest="e" * 64), other_data, other_weights])
    assert [len(item.rows) for item in found] == [1, 1, 1, 1]


def test_another_device_is_another_table():
    found = tables.comparisons([record(), record(seed=1, environment={"device": "a card"})])
    assert [item.device for item in found] == ["a card", "test processor"]


def test_failed_runs_stay_and_say_why():
    [comparison] = tables.comparisons([record(), record("losa", status="out-of-memory")])
    [head_only, losa] = rows(tables.comparison_csv([comparison]))
    assert head_only["strategy"] == "head-only"
    assert losa["n"] == "0"
    assert losa["average mAP (%)"] == ""
    assert losa["failed"] == "seed 0: out-of-memory in end-to-end (too <big> | much)"
    markdown = tables.comparison_markdown([comparison])
    assert "too &lt;big> \\| much" in markdown
    assert "| losa | 0 |  |  |  |" in markdown


def test_settings_that_differ_are_named_in_the_label():
    found = tables.comparisons([record(settings={"lr": 1.0}), record(settings={"lr": 22.5})])
    assert [row.label for row in found[0].rows] == ["head-only (lr=1.0)", "head-only (lr=22.5)"]


def test_building_twice_changes_no_byte(tmp_path):
    folder(tmp_path, record(), record("losa", average=0.4, peak=9_000_000), record("lofi", status="nan"))
    first = {path: path.read_bytes() for path in build(tmp_path).files}
    assert {path.suffix for path in first} == {".csv", ".md", ".png", ".pdf"}
    assert {path: path.read_bytes() for path in build(tmp_path).files} == first


def test_a_broken_record_is_named_and_skipped(tmp_path, capsys):
    folder(tmp_path, record())
    (tmp_path / "records" / "half.json").write_text(json.dumps(record())[:50])
    assert main(["--results", str(tmp_path)]) == 0
    assert "skipped half.json" in capsys.readouterr().out
    assert (tmp_path / "records" / "half.json").exists()


def test_no_record_is_one_line_and_exit_2(tmp_path, capsys):
    assert main(["--results", str(tmp_path)]) == 2
    assert "holds no record" in capsys.readouterr().err
    with pytest.raises(InputError):
        build(tmp_path)
