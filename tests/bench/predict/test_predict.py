"""Segments of one own video: those of the run itself, in every file that is written, or one line why not."""

import csv
import json
import re
import shutil

import av
import matplotlib.image
import numpy as np
import pytest
from conftest import encode, records_of, run_here
from hypothesis import given
from hypothesis import strategies as st

from bench.detection.submission import read_submission
from bench.predict.__main__ import main
from bench.predict.overlay import active
from bench.predict.segments import LEAST_SHARE, SHOWN, Segment, as_csv, as_json, chosen, select_for_display
from bench.predict.timeline import draw_timeline
from bench.records.paths import checkpoint_path, detections_path

STRATEGIES = ("head-only", "losa", "full-finetune")


@pytest.fixture(scope="module")
def runs(tiny_dataset, made_once):
    def make(results):
        options = ("--keep-weights", "--weights", "source", "--protocol", "ema_decay=0.5")
        process = run_here(tiny_dataset, results, *options, strategies=",".join(STRATEGIES))
        assert process.returncode == 0, process.stderr

    results = made_once("kept-weights", make)
    return results, records_of(results)


def predict(runs, strategy, video, out, *options, checkpoint=False):
    results, records = runs
    identifier = records[strategy]["id"]
    path = checkpoint_path(results, identifier) if checkpoint else results / "records" / f"{identifier}.json"
    return main([str(video), "--run", str(path), "--out", str(out), "--device", "cpu", *options])


@pytest.mark.parametrize("checkpoint", [False, True], ids=["record", "checkpoint"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_predictions_are_the_runs_own_detections(strategy, checkpoint, runs, tiny_dataset, tmp_path, capsys):
    own = read_submission(detections_path(runs[0], runs[1][strategy]["id"]))
    for name in ("clip_4", "clip_5"):
        video = tiny_dataset / "videos" / f"{name}.mp4"
        assert predict(runs, strategy, video, tmp_path, checkpoint=checkpoint) == 0
        found = read_submission(tmp_path / f"{name}.json")
        mine = own.video == name
        assert len(found) == mine.sum() > 0
        for column in ("label", "start", "end", "score"):
            assert getattr(found, column).tolist() == getattr(own, column)[mine].tolist()
        content = json.loads((tmp_path / f"{name}.json").read_text())
        rows = list(csv.DictReader((tmp_path / f"{name}.csv").read_text().splitlines()))
        assert [float(row["start"]) for row in rows] == found.start.tolist()
        assert [row["label"] for row in rows] == found.label.tolist()
        origin = content["talbench"]
        assert origin["run"] == runs[1][strategy]["id"]
        assert origin["protocol"] == runs[1][strategy]["protocol"]["digest"]
        assert origin["weights"]["sha256"] == runs[1][strategy]["weights"]["sha256"]
        assert origin["strategy"]["name"] == strategy
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(
        f"{name}.{suffix}" for name in ("clip_4", "clip_5") for suffix in ("json", "csv", "png")
    )
    assert str(tmp_path / "clip_5.png") in capsys.readouterr().out


def test_only_what_training_changed_is_kept(runs):
    results, records = runs
    sizes = {n: checkpoint_path(results, records[n]["id"]).stat().st_size for n in STRATEGIES}
    assert sizes["head-only"] < sizes["losa"] < sizes["full-finetune"]
    for name in STRATEGIES:
        changed = records[name]["cost"]["checkpoint_bytes"]
        assert changed <= sizes[name] < changed + 60_000  # buffers, untouched initial values, and the note


def test_a_run_whose_weights_cannot_be_kept_is_a_run_all_the_same(runs, tiny_dataset, tmp_path, capsys):
    (tmp_path / "checkpoints").write_text("a file where a folder should be")
    options = ("--weights", "source", "--protocol", "ema_decay=0.5")
    process = run_here(tiny_dataset, tmp_path, *options, "--keep-weights")
    assert process.returncode == 0
    plain, kept = records_of(tmp_path)["head-only"], runs[1]["head-only"]
    assert (plain["id"], plain["status"], plain["metrics"]) == (kept["id"], "ok", kept["metrics"])
    assert "weights not kept" in process.stderr
    assert "1 of 1 runs have no kept weights; --redo all repeats them" in process.stderr
    process = run_here(tiny_dataset, tmp_path, *options)
    assert process.returncode == 0
    assert "kept weights" not in process.stderr
    record = tmp_path / "records" / f"{plain['id']}.json"
    video = tiny_dataset / "videos" / "clip_4.mp4"
    assert main([str(video), "--run", str(record), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert "were not kept" in error
    assert "--keep-weights --redo all" in error


def test_options_choose_segments_and_the_video_gets_labels(runs, tiny_dataset, tmp_path):
    video = tiny_dataset / "videos" / "clip_4.mp4"
    assert predict(runs, "losa", video, tmp_path / "all") == 0
    every = read_submission(tmp_path / "all" / "clip_4.json").score
    least = float(np.sort(every)[len(every) // 2])
    assert predict(runs, "losa", video, tmp_path, "--min-score", str(least), "--top", "3", "--mp4") == 0
    assert read_submission(tmp_path / "clip_4.json").score.tolist() == sorted(every, reverse=True)[:3]
    with av.open(str(tmp_path / "clip_4.mp4")) as container, av.open(str(video)) as original:
        assert not container.streams.audio
        frames, plain = (list(each.decode(video=0)) for each in (container, original))
    assert len(frames) == len(plain) == 100
    assert [frame.time for frame in frames] == pytest.approx([n / 10 for n in range(100)], abs=1e-3)
    assert (frames[0].width, frames[0].height) == (256, 256)
    picture = matplotlib.image.imread(tmp_path / "clip_4.png")
    assert picture.shape[1] == 1600


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "folder"])
def test_a_video_that_cannot_be_decoded_is_one_line(kind, runs, tiny_dataset, tmp_path, capsys):
    path = tmp_path / "bad.mp4"
    content = (tiny_dataset / "videos" / "clip_4.mp4").read_bytes()
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(
            {"empty": b"", "text": b"no video" * 50, "truncated": content[: len(content) // 3]}[kind]
        )
    assert predict(runs, "head-only", path, tmp_path / "out") == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert "bad.mp4" in error
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--top", "0"), "--top: got 0"),
        (("--min-score", "nan"), "--min-score: got nan"),
        (("--device", "tpu"), "--device: got 'tpu'"),
        (("--weights", "/nonexistent.pt"), "/nonexistent.pt: cannot be read"),
        (("--weights", __file__), r"sha256 .* started from 'vit-t-source.safetensors'"),
        (("--run", "/nonexistent.json"), "no such record"),
        (("--run", __file__), "no checkpoint"),
        (("--out", "/proc/none"), "--out: /proc/none cannot be written"),
        (("--format", "json,vtt"), "--format: got 'vtt', allowed are json, csv, png, srt, eaf"),
    ],
)
def test_wrong_options_are_one_line(options, words, runs, tiny_dataset, tmp_path, capsys):
    assert predict(runs, "head-only", tiny_dataset / "videos" / "clip_4.mp4", tmp_path, *options) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert re.search(words, error)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_predicted_with_one_model_and_a_bad_video_does_not_stop_it(
    runs, tiny_dataset, tmp_path, capsys, monkeypatch
):
    from bench.predict import detector

    restored = []
    restore = detector.restore
    monkeypatch.setattr(detector, "restore", lambda *given: restored.append(1) or restore(*given))
    videos = tmp_path / "videos"
    (videos / "sub").mkdir(parents=True)
    shutil.copy(tiny_dataset / "videos" / "clip_4.mp4", videos / "sub" / "clip_4.mp4")
    shutil.copy(tiny_dataset / "videos" / "clip_5.mp4", videos / "clip_5.MP4")
    (videos / "bad.mkv").write_text("no video")
    options = ("--format", "json,srt,eaf")
    assert predict(runs, "head-only", videos, tmp_path / "out", *options) == 2
    said = capsys.readouterr()
    assert "bad.mkv: it is no video" in said.err
    assert said.err.splitlines()[-1] == "bench.predict: 1 of 3 videos could not be read"
    assert len(said.err.splitlines()) == 2
    assert restored == [1]
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert found == [f"{name}.{kind}" for name in ("clip_5", "sub/clip_4") for kind in ("eaf", "json", "srt")]
    assert [line for line in said.out.splitlines() if line.endswith("clip_4.srt")]
    # What is written does not depend on the other videos.
    assert predict(runs, "head-only", videos / "clip_5.MP4", tmp_path / "one", "--format", "json") == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["clip_5.json"]
    assert (tmp_path / "one" / "clip_5.json").read_bytes() == (tmp_path / "out" / "clip_5.json").read_bytes()


def test_a_picture_that_begins_late_is_said_and_put_on_the_players_clock(runs, tmp_path, capsys):
    import sys

    from tiny import ROOT

    sys.path.insert(0, str(ROOT / "tests" / "datasets"))
    from movies import write

    write(tmp_path / "plain.mp4")
    write(tmp_path / "late.mp4", milliseconds=range(1500, 7500, 100))
    written = {}
    for name, offset in (("plain", 0.0), ("late", 1.5)):
        out = tmp_path / name
        assert predict(runs, "head-only", tmp_path / f"{name}.mp4", out, "--format", "json,srt") == 0
        content = json.loads((out / f"{name}.json").read_text())
        assert content["talbench"]["offset_seconds"] == pytest.approx(offset)
        said = capsys.readouterr()
        assert said.err == ""
        assert ("begins 1.500 s after the container: add offset_seconds" in said.out) == (name == "late")
        start = min(each["segment"][0] for each in content["results"][name])
        written[name] = (start, (out / f"{name}.srt").read_text().splitlines()[1])
    assert written["late"][0] == pytest.approx(written["plain"][0], abs=0.01)
    minutes, rest = written["late"][1].split(" --> ")[0].split(":", 1)
    assert float(rest.split(":")[1].replace(",", ".")) >= 1.5
    assert minutes == "00"


def test_the_checkpoint_of_another_run_and_a_replaced_video_are_refused(runs, tiny_dataset, tmp_path, capsys):
    results, records = runs
    shutil.copytree(results, tmp_path / "results")
    first, other = (records[name]["id"] for name in ("head-only", "losa"))
    shutil.copy(checkpoint_path(results, other), checkpoint_path(tmp_path / "results", first))
    video = tmp_path / "clip.mp4"
    shutil.copy(tiny_dataset / "videos" / "clip_4.mp4", video)
    record = tmp_path / "results" / "records" / f"{first}.json"
    assert main([str(video), "--run", str(record), "--out", str(tmp_path / "out")]) == 2
    assert "is of another run" in capsys.readouterr().err
    assert predict(runs, "losa", video, tmp_path, "--mp4") == 2
    assert "holds the video itself" in capsys.readouterr().err


def test_a_failed_write_leaves_nothing_behind(runs, tiny_dataset, tmp_path, monkeypatch, capsys):
    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert predict(runs, "head-only", tiny_dataset / "videos" / "clip_4.mp4", tmp_path) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_video_of_another_rate_and_shape_is_read_in_its_own_seconds(runs, tmp_path):
    path = tmp_path / "wide clip.mp4"
    encode(path, np.random.default_rng(0).integers(0, 255, (90, 48, 66, 3), dtype=np.uint8), rate=30)
    assert predict(runs, "head-only", path, tmp_path / "out", "--mp4") == 0
    found = read_submission(tmp_path / "out" / "wide clip.json")
    assert 0 <= found.start.min() <= found.end.max() <= 3
    with av.open(str(tmp_path / "out" / "wide clip.mp4")) as container:
        frames = list(container.decode(video=0))
    assert (len(frames), frames[0].width, frames[0].height) == (90, 330, 240)


segments = st.lists(
    st.builds(
        lambda start, length, label, score: Segment(start, start + length, label, score),
        st.floats(0, 90),
        st.floats(0, 10),
        st.sampled_from("abc"),
        st.floats(0, 1),
    ),
    max_size=30,
)


@given(segments, st.floats(0, 1), st.none() | st.integers(1, 10))
def test_what_is_chosen_and_shown(found, least, top):
    kept = chosen(found, least, top)
    assert kept == sorted(kept, key=lambda each: -each.score)
    assert len(kept) == min(sum(each.score >= least for each in found), top or len(found))
    shown = select_for_display(found)
    assert len(shown) <= SHOWN
    assert not shown or shown[0].score == max(each.score for each in found)
    for number, each in enumerate(shown):
        assert each.score >= LEAST_SHARE * shown[0].score
        for other in shown[:number]:
            common = min(each.end, other.end) - max(each.start, other.start)
            shorter = min(each.end - each.start, other.end - other.start)
            assert each.label != other.label or common <= 0.5 * shorter
    now = active(shown, 45.0)
    assert len({each.label for each in now}) == len(now)
    assert all(each.start <= 45 < each.end for each in now)


def test_odd_labels_and_no_segments_are_written():
    odd = [Segment(0.5, 1.5, label, 0.5) for label in ('a, "b"', "$x$ ^_", "名前", "l" * 150)]
    content = json.loads(as_json("v", odd, {}))
    assert [entry["label"] for entry in content["results"]["v"]] == [each.label for each in odd]
    rows = list(csv.DictReader(as_csv(odd).decode().splitlines()))
    assert [row["label"] for row in rows] == [each.label for each in odd]
    assert draw_timeline("v $1$", odd, 2.0) == draw_timeline("v $1$", odd, 2.0)
    assert draw_timeline("v", [], 2.0).startswith(b"\x89PNG")
