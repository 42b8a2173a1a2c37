"""``bench.features`` and ``bench.run --model features``, from the command line to the record."""

import gzip
import json
import shlex
import shutil

import numpy as np
import pytest
from conftest import run_all_here, run_here
from tiny import TINY

from bench.doctor import main as doctor
from bench.features.__main__ import main as export
from bench.plan.__main__ import main as plan
from bench.predict.__main__ import main as predict
from bench.run.__main__ import main as run
from strategies import installed, reason_against

pytestmark = pytest.mark.slow
PROTOCOL = [word for change in TINY for word in ("--protocol", change)]


@pytest.fixture(scope="module")
def features(tiny_dataset, tmp_path_factory):
    """A folder of vit-t's features, and the words after ``bench.run`` that train on them."""
    folder = tmp_path_factory.mktemp("features")
    words = ["--dataset", str(tiny_dataset / "annotations.json"), "--data", str(tiny_dataset / "videos")]
    words += ["--weights", "random", "--device", "cpu", "--out", str(folder / "out"), *PROTOCOL]
    with pytest.MonkeyPatch.context() as patched:
        lines = []
        patched.setattr("builtins.print", lambda *text, **_: lines.append(" ".join(map(str, text))))
        assert export(words) == 0
    assert lines[1].endswith("features of 6 videos written")
    command = shlex.split(lines[-1].splitlines()[-1])
    assert command[:3] == ["python", "-m", "bench.run"]
    return folder / "out", [*command[3:], "--device", "cpu"]


def results_of(folder):
    (record,) = (json.loads(path.read_text()) for path in (folder / "records").glob("*.json"))
    (path,) = (folder / "detections").glob("*.json.gz")
    return record, json.loads(gzip.decompress(path.read_bytes()))["results"]


@pytest.fixture(scope="module")
def trained(features, tmp_path_factory):
    """The results of the printed command, with kept weights."""
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bench.run.scheduler.run_matrix", run_all_here)
        assert run([*features[1], "--results", str(results), "--keep-weights"]) == 0
    return results


def test_the_printed_command_gives_the_results_of_the_backbone(tiny_dataset, features, trained, tmp_path):
    assert run_here(tiny_dataset, tmp_path).returncode == 0
    record, found = results_of(trained)
    wanted, detections = results_of(tmp_path)
    assert found == detections
    assert record["metrics"] == wanted["metrics"]
    assert record["training"]["loss"] == wanted["training"]["loss"]
    assert record["model"] == "features"
    assert record["weights"]["name"] == "features"
    assert len(record["weights"]["sha256"]) == 64
    # Windows hold other numbers of instances than the forecast's, some bytes each.
    memory = record["memory"]
    assert memory["predicted_peak_bytes"] == pytest.approx(memory["peak_allocated_bytes"], rel=1e-3)
    assert record["memory"]["inference"]["predicted_peak_bytes"] is not None
    arrays = [np.load(path) for path in features[0].glob("*.npy")]
    assert {(array.shape, array.dtype.name) for array in arrays} == {((56, 64), "float32")}


def test_other_features_are_another_run(features, trained, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(features[0], other)
    for path in other.glob("*.npy"):
        np.save(path, np.load(path) + 1)
    words = [str(other) if word == str(features[0]) else word for word in features[1]]
    results = tmp_path / "results"
    shutil.copytree(trained, results)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bench.run.scheduler.run_matrix", lambda runs, *_: print(f"{len(runs)} to do"))
        patched.setattr("bench.run.matrix.conclude", lambda *_: 0)
        assert run([*words, "--results", str(results)]) == 0
        assert "1 to do" in capsys.readouterr().out
        assert run([*features[1], "--results", str(results)]) == 0
        assert "all 1 runs have records" in capsys.readouterr().err


def test_a_whole_test_video_is_forecast_exactly(features, tmp_path):
    changes = ["--protocol", "test_windows=whole,crop_ratio=0.5+1,head.mask_input=true"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bench.run.scheduler.run_matrix", run_all_here)
        patched.setattr("bench.run.matrix.conclude", lambda *_: 0)
        assert run([*features[1], *changes, "--results", str(tmp_path)]) == 0
    memory = results_of(tmp_path)[0]["memory"]["inference"]
    assert memory["predicted_peak_bytes"] == memory["peak_allocated_bytes"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--strategies", "losa,lofi"],
            "strategy losa: it changes the backbone, and features has none; allowed are head-only",
        ),
        (["--weights", "random"], "--weights: got random, --model features has none"),
        (
            ["--protocol", "feature_width=32"],
            "56 features of 64 channels, the protocol's feature_width is 32",
        ),
        (["--protocol", "feature_width=none"], "field 'feature_width' is none, --model features needs a"),
        (["--protocol", "augmentation=crop-flip"], "field 'augmentation' is crop-flip, allowed for features"),
        (["--protocol", "frames_per_second=5"], "2 frames and a stride of 2 at 10/s, by the protocol they"),
        (["--protocol", "steps_per_clip=3"], "window of 2 frames and a stride of 2 at 10/s, by the protocol"),
        (["--model", "vit-s", "--weights", "random"], "field 'feature_width' is set, allowed only with"),
    ],
)
def test_what_cannot_be_run_is_one_line(features, tmp_path, capsys, words, message):
    assert run([*features[1], "--force", *words, "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "records").exists() or not list((tmp_path / "records").iterdir())


def test_a_strategy_that_needs_a_backbone_gets_an_empty_row_with_the_reason(features, tmp_path, capsys):
    reason = "it changes the backbone, and features has none"
    words = [*features[1], "--strategies", "head-only,losa,mlp-control", "--seeds", "0,1"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bench.run.scheduler.run_matrix", run_all_here)
        assert run([*words, "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.err.count(f"bench.run: losa is left out: {reason}\n") == 1
    assert f"Left out: losa: {reason}" in printed.out
    records = [json.loads(path.read_text()) for path in (tmp_path / "records").glob("*.json")]
    found = {(each["strategy"]["name"], each["seed"]): each["status"] for each in records}
    assert found == {
        **{(name, seed): "ok" for name in ("head-only", "mlp-control") for seed in (0, 1)},
        **{("losa", seed): "unsupported" for seed in (0, 1)},
    }
    table = (tmp_path / "tables" / "comparison.md").read_text()
    assert f"Left out: losa: {reason}" in table
    assert "Failed" not in table
    (row,) = (line for line in table.splitlines() if line.startswith("| losa"))
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == ["0"] + [""] * (row.count("|") - 3)


def test_all_strategies_run_those_that_need_no_backbone(features, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "bench.run.scheduler.run_matrix", lambda runs, *_: print([run.spec.strategy for run in runs])
        )
        patched.setattr("bench.run.matrix.conclude", lambda *_: 0)
        assert run([*features[1], "--strategies", "all", "--results", str(tmp_path)]) == 0
    names = [name for name in installed() if reason_against(name, "features") is None]
    assert {"head-only", "mlp-control", "temporal-control"} <= set(names)
    assert str(names) in capsys.readouterr().out


def test_the_doctor_checks_features(features, tiny_dataset, tmp_path, capsys):
    protocol = features[1][features[1].index("--protocol") + 1]
    words = [str(tiny_dataset / "annotations.json"), "--features", "--data", str(features[0])]
    words += ["--protocol", protocol]
    assert doctor(words) in (0, 1)
    assert "features" not in capsys.readouterr().out
    assert doctor([*words, "--protocol", "feature_width=32"]) == 2
    out = capsys.readouterr().out
    assert "error: features (6)" in out
    assert "56 features of 64 channels, the protocol's feature_width is 32" in out


def test_prediction_needs_a_backbone(trained, tiny_dataset, tmp_path, capsys):
    (record,) = (trained / "records").glob("*.json")
    video = str(tiny_dataset / "videos" / "clip_0.mp4")
    assert predict([video, "--run", str(record), "--out", str(tmp_path), "--device", "cpu"]) == 2
    assert "was trained on features in files; bench.predict needs a model" in capsys.readouterr().err


def test_the_plan_forecasts_features(capsys):
    words = ["--model", "features", "--device", "cpu", *PROTOCOL, "--protocol", "feature_width=1408"]
    assert plan([*words, "--json", "-"]) == 0
    row, *controls = json.loads(capsys.readouterr().out)
    assert (row["strategy"], row["clips"]) == ("head-only", 4)
    assert {control["strategy"] for control in controls} == {"mlp-control"}
    assert row["predicted_peak_bytes"] > 1408 * 4 * 16 * 3  # at least the first convolution
    assert plan([*words, "--strategy", "lofi"]) == 2
    assert "strategy lofi: it changes the backbone" in capsys.readouterr().err


def test_the_embedded_data_set_has_features_too(tmp_path, capsys):
    words = ["--out", str(tmp_path / "out"), "--device", "cpu", "--data", "nowhere"]
    assert export(words) == 2
    assert "miniature makes its own videos" in capsys.readouterr().err
    assert export(["--model", "features", "--out", str(tmp_path / "out")]) == 2
    assert "--model: unknown 'features', known are vit-t" in capsys.readouterr().err
