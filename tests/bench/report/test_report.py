"""Tables and figures from records made up here, with numbers that can be worked out by hand."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from made_records import folder, record, rows

from bench.io.errors import InputError
from bench.report import build
from bench.report.__main__ import main
from bench.report.figures import accuracy as figures
from bench.report.tables import comparison as tables


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


def seen(digest):
    """Return a record's data as a run leaves them that saw some pictures, or died before it saw any."""
    return record()["dataset"] | {"pictures_sha256": digest and {"testing": digest * 64}}


def test_other_pictures_are_another_table_and_runs_that_saw_none_join_the_first():
    found = tables.comparisons(
        [
            record(seed=0, dataset=seen("1")),
            record(seed=1, dataset=seen("1")),
            record(seed=2, dataset=seen(None), status="out-of-memory"),
            record(seed=3, dataset=seen("2")),
            record(seed=4),  # from before pictures were recorded
        ]
    )
    seeds = [{each["seed"] for each in item.rows[0].records} for item in found]
    assert 2 in seeds[0]
    assert sorted(map(sorted, (each - {2} for each in seeds))) == [[0, 1], [3], [4]]
    assert [item.pictures for item in found].count("not recorded") == 1
    assert len({item.slug for item in found}) == len({item.title for item in found}) == 3
    assert tables.comparisons([record()])[0].pictures == ""


def test_a_failed_run_stays_with_its_device():
    for one, other in (("1", "2"), ("2", "1")):
        found = tables.comparisons(
            [
                record(dataset=seen(one), environment={"device": "a processor"}),
                record(dataset=seen(other), environment={"device": "a card"}),
                record("losa", dataset=seen(None), status="nan", environment={"device": "a card"}),
            ]
        )
        assert {item.device: len(item.rows) for item in found} == {"a processor": 1, "a card": 2}
    csv = rows(tables.comparison_csv(tables.comparisons([record(), record(seed=1, dataset=seen("1"))])))
    assert {line["pictures"] for line in csv} == {"not recorded", csv[0]["pictures"]}


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
    assert {path.suffix for path in first} == {".csv", ".md", ".tex", ".png", ".pdf", ".html"}
    assert {path: path.read_bytes() for path in build(tmp_path).files} == first


def test_a_broken_record_is_named_and_skipped(tmp_path, capsys):
    folder(tmp_path, record())
    (tmp_path / "records" / "half.json").write_text(json.dumps(record())[:50])
    assert main(["--results", str(tmp_path)]) == 0
    assert "skipped half.json" in capsys.readouterr().out
    assert (tmp_path / "records" / "half.json").exists()


@pytest.mark.slow
def test_a_locale_without_plus_minus_gets_its_escape(tmp_path):
    folder(tmp_path, record(seed=0), record(seed=1, average=0.4))
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "bench.report", "--results", str(tmp_path)]
    process = subprocess.run(command, capture_output=True, env=environment, cwd=Path(__file__).parents[3])
    assert process.returncode == 0, process.stderr
    assert b"35.0 \\xb1 7.1" in process.stdout
    assert "35.0 ± 7.1" in (tmp_path / "tables" / "comparison.md").read_text(encoding="utf-8")


def test_no_record_is_one_line_and_exit_2(tmp_path, capsys):
    assert main(["--results", str(tmp_path)]) == 2
    assert "holds no record" in capsys.readouterr().err
    with pytest.raises(InputError):
        build(tmp_path)


def foretold(peak):
    return {"predicted_peak_bytes": peak, "predicted_reserved_bytes": None, "reason": None}


def test_forecasts_stand_beside_measurements():
    measured = record(peak=8_000_000, forecast=foretold(10_000_000))
    [comparison] = tables.comparisons([measured, record("losa")])
    first, second = rows(tables.comparison_csv([comparison]))
    assert float(first["predicted peak (MB)"]) == 10.0
    assert float(first["training peak, measured (MB)"]) == 8.0
    assert float(first["forecast error (%)"]) == pytest.approx(25.0)
    assert (second["predicted peak (MB)"], second["forecast error (%)"]) == ("", "")


def test_a_run_that_was_predicted_not_to_fit_says_so():
    message = "PredictedOutOfMemoryError: predicted out of memory (225 GB on 141); --force tries it"
    refused = [
        record("losa", s, status="out-of-memory", forecast=foretold(225 * 10**9))
        | {"phase": "forecast", "message": message}
        for s in (0, 1)
    ]
    [comparison] = tables.comparisons([record(), *refused])
    losa = rows(tables.comparison_csv([comparison]))[1]
    assert losa["failed"] == "seeds 0, 1: predicted out of memory (225 GB on 141); --force tries it"
    assert float(losa["predicted peak (MB)"]) == 225000.0
    assert losa["forecast error (%)"] == ""


def test_gains_are_paired_by_seed():
    base = [record(seed=s, average=a) for s, a in enumerate((0.30, 0.40, 0.50))]
    better = [record("losa", s, a) for s, a in enumerate((0.31, 0.42, 0.53))]
    [comparison] = tables.comparisons([*base, *better, record("lofi", 0, 0.2)])
    head_only, lofi, losa = rows(tables.comparison_csv([comparison]))
    assert (head_only["gain"], head_only["95 % interval"]) == ("", "")
    # Differences 1, 2, 3: mean 2, deviation 1, and t(0.975, 2) = 4.303.
    assert float(losa["gain"]) == pytest.approx(2.0)
    assert losa["95 % interval"] == "-0.5 to +4.5"
    assert (float(lofi["gain"]), lofi["95 % interval"]) == (-10.0, "n = 1")


def timed(seed, wall, processor, **changes):
    cost = {"seconds_per_step": wall, "trainable_parameters": 1, "total_parameters": 2}
    return record(
        seed=seed, cost=cost | ({"cpu_seconds_per_step": processor} if processor else {}), **changes
    )


def test_processor_seconds_replace_wall_seconds_of_runs_on_a_cpu():
    made = [timed(0, 0.3, 0.1), timed(1, 0.9, 0.2), timed(0, 0.5, 0.4, strategy="lofi")]
    [comparison] = tables.comparisons(made)
    header, lines = tables.cells(comparison)
    assert "s/step" not in header
    assert [line[header.index("CPU s/step")] for line in lines] == ["0.150", "0.400"]
    assert "processor seconds" in tables.comparison_markdown([comparison])
    [first, _] = rows(tables.comparison_csv([comparison]))
    assert (float(first["s/step"]), float(first["CPU s/step"])) == (0.6, 0.15)
    assert [row["cpu_seconds_per_step"] for row in rows(tables.runs_csv(made))] == [
        "0.1000",
        "0.2000",
        "0.4000",
    ]


def test_wall_seconds_stay_where_a_row_has_no_processor_seconds():
    older = timed(0, 0.5, None, strategy="lofi")
    card = [timed(0, 0.3, 0.1), timed(0, 0.5, 0.4, strategy="lofi")]
    for each in card:
        each["memory"]["meter"] = "cuda"
    for made, expected in (([timed(0, 0.3, 0.1), older], ["0.300", "0.500"]), (card, ["0.300", "0.500"])):
        [comparison] = tables.comparisons(made)
        header, lines = tables.cells(comparison)
        assert "CPU s/step" not in header
        assert [line[header.index("s/step")] for line in lines] == expected
    [alone] = tables.comparisons([older])
    assert "processor seconds" not in tables.comparison_markdown([alone])


def test_backward_is_a_column_of_the_runs():
    first = record()
    first["protocol"]["backward"] = "streamed"
    shown = rows(tables.runs_csv([first, record(seed=1)]))
    assert [line["backward"] for line in shown] == ["streamed", ""]


def test_two_devices_share_no_file_name():
    [alone] = tables.comparisons([record()])
    first, second = tables.comparisons([record(), record(seed=1, environment={"device": "a card"})])
    # Nor does one take over the name that another had while it was alone.
    assert len({alone.slug, first.slug, second.slug}) == 3
    assert first.slug.startswith(alone.slug)


def test_jumps_of_the_loss_are_explained():
    full, quarter = {"temporal": 1.0, "spatial": 1.0}, {"temporal": 0.25, "spatial": 1.0}
    cycle = [{"stage": "joint", "fidelity": quarter}, {"stage": "joint", "fidelity": full | {"spatial": 0.5}}]
    lofi = record("lofi")
    lofi["memory"]["stages"] = [*cycle, {"stage": "head", "fidelity": full}]
    [comparison] = tables.comparisons([record(), lofi])
    fresh, switched = figures.jumps(list(comparison.rows))
    assert "fresh head" in fresh
    assert "lofi" in switched
    assert "another fidelity" in switched
    assert figures.jumps([comparison.rows[0]]) == []
