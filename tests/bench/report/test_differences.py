"""Rows are compared over seeds and test videos where detections are kept, and over seeds alone elsewhere."""

import gzip
import json
import statistics

import numpy as np
import pytest
from made_records import TIOU, record, rows

from bench.detection.evaluation import evaluate
from bench.detection.segments import Segments
from bench.detection.submission import write_submission
from bench.records.paths import detections_path, ground_truth_path
from bench.records.record import read_folder, write_record
from bench.report import build
from bench.report.analysis import differences
from bench.report.analysis.differences import baseline_of, edited_intervals, families, with_differences
from bench.report.analysis.findings import findings
from bench.report.grouping import comparisons
from bench.report.significance import holm

VIDEOS = [f"v{number}" for number in range(12)]
TRUTH = [(v, "a" if n % 2 else "b", 3.0 * n, 3.0 * n + 2) for v in VIDEOS for n in range(4)]
ERROR = {"head-only": 0.9, "losa": 0.3, "mlp-control": 0.35, "lofi": 0.88}


def run(strategy, seed, results, source="b" * 64, **changes):
    """Write detections whose ends are off by an error of the strategy, and return the record."""
    random = np.random.default_rng([seed, len(strategy)])
    found = {video: [] for video in VIDEOS}
    for video, label, start, end in TRUTH:
        off = random.normal(0, ERROR[strategy], 2)
        segment = [round(start + off[0], 3), round(max(end + off[1], start + off[0]), 3)]
        found[video].append({"segment": segment, "label": label, "score": round(random.uniform(), 3)})
    flat = [(v, e["label"], *e["segment"], e["score"]) for v, entries in found.items() for e in entries]
    truth, wanted = zip(*TRUTH, strict=True), zip(*flat, strict=True)
    evaluation = evaluate(table(*truth), table(*wanted), TIOU)
    item = record(strategy, seed, evaluation.average, **changes)
    item |= {"id": f"{item['id']}-{source[:2]}", "weights": {**item["weights"], "sha256": source}}
    item["metrics"]["map"] = {f"{t:g}": float(m) for t, m in zip(TIOU, evaluation.map, strict=True)}
    write_submission(detections_path(results, item["id"]), found)
    path = ground_truth_path(results, item)
    database = {
        video: {
            "subset": "testing",
            "annotations": [
                {"segment": [start, end], "label": label} for v, label, start, end in TRUTH if v == video
            ],
        }
        for video in VIDEOS
    }
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps({"database": database}).encode(), mtime=0))
    write_record(results / "records", item)
    return item


def table(video, label, start, end, score=None):
    return Segments(
        np.array(video),
        np.array(label),
        np.array(start),
        np.array(end),
        None if score is None else np.array(score),
    )


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(differences, "DRAWS", 400)


@pytest.fixture
def results(tmp_path):
    for strategy in ERROR:
        for seed in range(3):
            run(strategy, seed, tmp_path)
    return tmp_path


def compared(results):
    [comparison] = comparisons(read_folder(results / "records").records)
    return with_differences(comparison, results)


def test_every_row_is_compared_with_head_only_and_with_the_control(results):
    comparison = compared(results)
    assert baseline_of(comparison).label == "head-only"
    assert [[(a.label, b.label) for a, b in family] for family in families(comparison)] == [
        [("lofi", "head-only"), ("losa", "head-only"), ("mlp-control", "head-only")],
        [("lofi", "mlp-control"), ("losa", "mlp-control")],
    ]


def test_intervals_are_over_seeds_and_videos_and_corrected(results):
    found = compared(results).differences
    gained = found["losa", "head-only"]
    assert gained.over == "seeds, videos"
    assert gained.low < gained.mean < gained.high
    assert gained.separated
    assert not found["lofi", "head-only"].separated
    assert not found["losa", "mlp-control"].separated
    labels = [(name, "head-only") for name in ("lofi", "losa", "mlp-control")]
    assert [found[pair].adjusted for pair in labels] == holm([found[pair].p for pair in labels])


def test_the_difference_itself_is_that_of_the_records(results):
    comparison = compared(results)
    averages = {row.label: list(row.averages.values()) for row in comparison.rows}
    gained = comparison.differences["losa", "head-only"].mean
    assert gained == pytest.approx(
        statistics.fmean(averages["losa"]) - statistics.fmean(averages["head-only"])
    )


def test_intervals_are_kept_until_something_changes(results, monkeypatch):
    first = compared(results).differences
    monkeypatch.setattr(differences, "resampled_runs", lambda results, rows: {})
    assert compared(results).differences == first
    assert edited_intervals(results) == []
    [kept] = (results / "bootstrap").iterdir()
    content = json.loads(kept.read_text())
    content["differences"][0][2]["p"] = 0.001
    kept.write_text(json.dumps(content))
    assert edited_intervals(results) == [
        f"bootstrap/{kept.name}: field 'content_sha256' is not that of the intervals"
    ]
    assert compared(results).differences["losa", "head-only"].over == "seeds"  # computed again
    kept.write_text("{")
    assert len(edited_intervals(results)) == 1
    assert compared(results).differences["losa", "head-only"].over == "seeds"  # computed again


def test_without_the_detections_of_a_run_its_row_is_over_seeds_alone(results):
    [record] = [r for r in read_folder(results / "records").records if r["strategy"]["name"] == "losa"][:1]
    detections_path(results, record["id"]).unlink()
    found = compared(results).differences
    assert found["losa", "head-only"].over == "seeds"
    assert found["lofi", "head-only"].over == "seeds, videos"
    build(results)
    text = (results / "tables" / "comparison.md").read_text()
    assert text.count("(seeds only) |") == 1
    lines = rows((results / "tables" / "comparison.csv").read_text())
    assert [line["interval over"] for line in lines] == ["", "seeds, videos", "seeds", "seeds, videos"]


def test_detections_that_do_not_give_the_recorded_map_do_not_count(results):
    [record] = [r for r in read_folder(results / "records").records if r["strategy"]["name"] == "losa"][:1]
    write_submission(detections_path(results, record["id"]), {"v0": []})
    assert compared(results).differences["losa", "head-only"].over == "seeds"


def test_findings_say_what_the_table_says(results):
    build(results)
    found = findings(results)
    assert [each.kind for each in found].count("over head-only") == 3
    [losa] = [each for each in found if (each.first, each.second) == ("losa", "head-only")]
    gained = compared(results).differences["losa", "head-only"]
    assert losa.sentence == (
        f"losa is {gained.mean:.1f} points above head-only (95 % interval {gained.interval}, "
        "over seeds, videos; 3 runs): separated."
    )
    [control] = [each for each in found if (each.first, each.second) == ("losa", "mlp-control")]
    assert control.kind == "over a control"
    assert control.sentence.endswith("not separated.")
    text = (results / "findings.md").read_text()
    plain = json.loads((results / "findings.json").read_text())
    assert [each["sentence"] for each in plain] == [each.sentence for each in found]
    assert all(each.sentence in text for each in found)
    [line] = [each for each in plain if (each["first"], each["second"]) == ("losa", "head-only")]
    assert (line["separated"], line["mean"]) == (True, round(gained.mean, 4))


def test_what_papers_say_is_contradicted_only_if_separated(tmp_path, monkeypatch):
    for losa_error, contradicts in ((2.5, True), (0.9, False)):
        folder = tmp_path / str(losa_error)
        monkeypatch.setitem(ERROR, "losa", losa_error)
        for strategy in ("head-only", "losa"):
            for seed in range(3):
                run(strategy, seed, folder)
        [found] = findings(folder)
        assert ("This contradicts what was published: LoSA's paper" in found.sentence) == contradicts


def test_sources_of_one_group_are_one_row_and_in_its_interval(tmp_path):
    for strategy in ("head-only", "losa"):
        for source in ("c" * 64, "d" * 64):
            for seed in range(3):
                item = run(strategy, seed, tmp_path, source)
                item["weights"] |= {"name": f"source-{source[0]}.safetensors", "group": "synthetic-source"}
                write_record(tmp_path / "records", item)
    comparison = compared(tmp_path)
    assert comparison.weights == "synthetic-source"
    assert [len(row.records) for row in comparison.rows] == [6, 6]
    found = comparison.differences["losa", "head-only"]
    assert (found.pairs, found.over) == (6, "seeds, videos, for each of 2 sources")
    assert list(found.by_source) == ["c" * 8, "d" * 8]
    assert found.mean == pytest.approx(statistics.fmean(found.by_source.values()))
    build(tmp_path)
    told = rows((tmp_path / "tables" / "comparison.csv").read_text())[1]["gain by source"]
    assert told == ", ".join(f"{name} {gained:+.1f}" for name, gained in found.by_source.items())
    assert f"; by source {told}): separated." in findings(tmp_path)[0].sentence


def test_of_two_head_only_rows_gains_are_over_the_usual_one_and_the_table_says_so(tmp_path):
    for settings, tuning in (({}, None), ({"lr": 20.0}, {"trials": 4, "digest": "e" * 64, "settings": {}})):
        for seed in range(3):
            run("head-only", seed, tmp_path, settings=settings, tuning=tuning)
    for seed in range(3):
        run("losa", seed, tmp_path)
    comparison = compared(tmp_path)
    assert baseline_of(comparison).label == "head-only (lr=20.0)"
    assert comparison.differences["losa", "head-only (lr=20.0)"].separated
    build(tmp_path)
    text = (tmp_path / "tables" / "comparison.md").read_text()
    assert "Gains are over the row head-only (lr=20.0), of 2 head-only rows: its settings were chosen" in text
    assert [line["gain"] != "" for line in rows((tmp_path / "tables" / "comparison.csv").read_text())] == [
        True,
        False,
        True,
    ]


def test_settings_are_compared_with_the_usual_ones(tmp_path):
    for strategy, settings in (("head-only", {}), ("losa", {"taps": []}), ("losa", {"taps": [1]})):
        for seed in range(2 if settings == {"taps": []} else 3):
            run(strategy, seed, tmp_path, settings=settings)
    build(tmp_path)
    [path] = (tmp_path / "tables").glob("ablation_losa_*.csv")
    usual, changed = [line for line in rows(path.read_text()) if line["strategy"] == "losa"]
    assert (usual["difference"], changed["its 95 % interval"]) == ("", "n = 2")
    assert changed["difference"] == "+0.0"  # the same detections for the seeds that both have
    assert (usual["taps"], usual["n"], changed["n"]) == ("1", "3", "2")  # the first of two by label
