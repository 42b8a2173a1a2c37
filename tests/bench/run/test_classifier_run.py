"""The bench with an external classifier: heads of one class, classes from the file, rows that say so."""

import dataclasses
import json

import pytest
from conftest import CLASSES, bench_command, run_here
from safetensors import safe_open

from bench.config.digest import DEFAULTS_OF_NEW_FIELDS, digest_of
from bench.config.presets import MINIATURE
from bench.detection import classifier_name, read_submission
from bench.predict.__main__ import main as predict
from bench.records.paths import checkpoint_path, detections_path
from bench.records.record import read_folder
from bench.report.tables import comparison as tables
from bench.run.__main__ import main
from bench.verify import inconsistencies


@pytest.fixture(scope="module")
def one_class_videos(tiny_dataset, tmp_path_factory):
    """The tiny videos, each with instances of one class only."""
    folder = tmp_path_factory.mktemp("single")
    content = json.loads((tiny_dataset / "annotations.json").read_text())
    for number, entry in enumerate(content["database"].values()):
        for each in entry["annotations"]:
            each["label"] = CLASSES[number % 2]
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "videos").symlink_to(tiny_dataset / "videos")
    return folder


def write_scores(folder, name, results):
    path = folder / name
    path.write_text(json.dumps({"results": results, "class": list(CLASSES)}))
    return path


@pytest.fixture(scope="module")
def compared(one_class_videos, made_once):
    """Records of a run whose classifier knows all, and of one whose classifier is always wrong."""

    def make(results):
        for path in (
            write_scores(results, "knows.json", {"clip_4": [1, 0], "v_clip_5": [0, 1]}),
            write_scores(results, "wrong.json", {"clip_4": [0.2, 0.8], "clip_5": [0.8, 0.2]}),
        ):
            options = ("--classifier", str(path), "--protocol", "classifier_top=1,steps=80", "--keep-weights")
            process = run_here(one_class_videos, results, *options, report=path.stem == "wrong")
            assert process.returncode == 0, process.stderr

    results = made_once("classified", make)
    records = read_folder(results / "records").records
    files = {name: results / f"{name}.json" for name in ("knows", "wrong")}
    return results, files, {r["protocol"]["classifier"].split(".")[0]: r for r in records}


def test_detections_have_the_classifiers_classes(compared):
    results, _, records = compared
    found = {
        name: read_submission(detections_path(results, record["id"])) for name, record in records.items()
    }
    knows, wrong = found["knows"], found["wrong"]
    assert set(zip(knows.video, knows.label, strict=True)) == {("clip_4", "left"), ("clip_5", "right")}
    assert set(zip(wrong.video, wrong.label, strict=True)) == {("clip_4", "right"), ("clip_5", "left")}
    # One and the same head: the proposals are equal, and their scores are the geometric means.
    assert knows.start.tolist() == wrong.start.tolist()
    assert wrong.score == pytest.approx(0.8**0.5 * knows.score, abs=2e-5)
    assert records["knows"]["metrics"]["map_average"] > 0
    assert records["wrong"]["metrics"]["map_average"] == 0


def test_the_head_learns_one_class(compared):
    results, _, records = compared
    with safe_open(checkpoint_path(results, records["knows"]["id"]), framework="pt") as stream:
        assert stream.get_slice("head.cls_head.cls_head.conv.bias").get_shape() == [1]
    record = records["knows"]
    assert abs(record["memory"]["predicted_peak_bytes"] / record["memory"]["peak_allocated_bytes"] - 1) < 0.01


def test_tables_name_the_classifier(compared):
    results, files, records = compared
    items = tables.comparisons(tuple(records.values()))
    for name, path in files.items():
        assert sum(f"classes by {classifier_name(path)} (top 1)" in item.title for item in items) == 1
        assert list(inconsistencies(records[name], results)) == []
    assert len(items) == 2
    assert "classifier" in tables.comparison_csv(items).splitlines()[0].split(",")
    assert "knows.json" in (results / "tables" / "comparison.md").read_text()
    assert "knows.json" in (results / "index.html").read_text()


def test_predictions_of_such_a_run_have_no_class(compared, one_class_videos, tmp_path):
    results, _, records = compared
    record = results / "records" / f"{records['knows']['id']}.json"
    video = one_class_videos / "videos" / "clip_4.mp4"
    assert predict([str(video), "--run", str(record), "--out", str(tmp_path), "--device", "cpu"]) == 0
    found = read_submission(tmp_path / "clip_4.json")
    own = read_submission(detections_path(results, records["knows"]["id"]))
    assert set(found.label) == {"action"}
    assert found.start.tolist() == own.start[own.video == "clip_4"].tolist()
    assert own.score[own.video == "clip_4"] == pytest.approx(found.score**0.5, abs=2e-4)


@pytest.mark.parametrize(
    ("results", "options", "words"),
    [
        ({"clip_4": [1, 0]}, (), "results: no scores for 1 of 2 videos: clip_5"),
        ({"clip_4": [1, 0], "clip_5": [1, float("nan")]}, (), "nan"),
        (
            None,
            ("--classifier", "/nonexistent.json"),
            "--classifier: /nonexistent.json: cannot be read: No such file",
        ),
        (None, ("--protocol", "classifier=a"), "'classifier' follows from a file"),
        (None, ("--protocol", "classifier_top=3"), "'classifier_top' is set, allowed only with --classifier"),
        ({}, ("--protocol", "classifier_top=0"), "'classifier_top' is 0, allowed is 1"),
    ],
)
def test_what_does_not_fit_stops_before_any_run(results, options, words, one_class_videos, tmp_path, capsys):
    if results is not None:
        options = (*options, "--classifier", str(write_scores(tmp_path, "scores.json", results)))
    code = main(bench_command(one_class_videos, tmp_path / "results", *options)[3:])
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert "\n" not in error
    assert words in error
    assert not list((tmp_path / "results").rglob("*.json"))


def test_older_records_keep_their_digest():
    fields = dataclasses.asdict(MINIATURE)
    older = {name: value for name, value in fields.items() if name not in DEFAULTS_OF_NEW_FIELDS}
    assert {"classifier", "classifier_top"} <= DEFAULTS_OF_NEW_FIELDS.keys()
    assert digest_of(older) == digest_of(fields) == MINIATURE.digest()
    named = dataclasses.replace(MINIATURE, classifier="a.json 0")
    assert (
        len({MINIATURE.digest(), named.digest(), dataclasses.replace(named, classifier_top=1).digest()}) == 3
    )
