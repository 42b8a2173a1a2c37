"""Controls on footage: shots between cuts, classes without training, shuffled labels, shared lengths."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from datasets.leaks.__main__ import main
from datasets.leaks.shots import BACKGROUND, find_shots, label_of, shots_of

RATE = 10
RED, GREEN, BLUE, GREY = (200, 20, 20), (20, 200, 20), (20, 20, 200), (120, 120, 120)


def write_video(path: Path, shots: list[tuple[tuple[int, int, int], int]]) -> None:
    """Write shots of one colour, each of a number of frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width = stream.height = 64
        for colour, frames in shots:
            picture = np.broadcast_to(np.array(colour, np.uint8), (64, 64, 3)).copy()
            for _ in range(frames):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def entry(subset: str, duration: float, *instances: tuple[float, float, str]) -> dict[str, object]:
    annotations = [{"segment": [start, end], "label": label} for start, end, label in instances]
    return {"subset": subset, "duration": duration, "annotations": annotations}


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training videos and a test video: red is running, green jumping, grey and blue background."""
    folder = tmp_path_factory.mktemp("footage")
    write_video(folder / "a.mp4", [(GREY, 20), (RED, 20), (BLUE, 10)])
    write_video(folder / "b.mp4", [(GREEN, 20), (GREY, 20), (RED, 20)])
    write_video(folder / "c.mp4", [(BLUE, 10), (GREEN, 20), (GREY, 15), (RED, 25)])
    database = {
        "a": entry("training", 5, (2, 4, "running")),
        "b": entry("training", 6, (0, 2, "jumping"), (4, 6, "running")),
        "c": entry("testing", 7, (1, 3, "jumping"), (4.5, 7, "running")),
    }
    (folder / "annotations.json").write_text(json.dumps({"database": database}))
    return folder


def test_shots_are_what_lies_between_cuts(footage: Path) -> None:
    shots = find_shots(footage / "c.mp4")
    assert [(each.start, each.end) for each in shots] == [(0, 1), (1, 3), (3, 4.5), (4.5, 7)]
    assert shots[0].strength == shots[-1].strength == 0
    assert min(each.strength for each in shots[1:-1]) > 30
    np.testing.assert_allclose(shots[1].colours.mean(axis=(0, 1)), GREEN, atol=12)


def test_a_slow_change_is_no_cut() -> None:
    ramp = np.arange(0, 250, 25, dtype=np.float32)[:, None, None, None] * np.ones((1, 4, 4, 3), np.float32)
    (shot,) = shots_of(ramp, 5)
    assert (shot.start, shot.end) == (0, 2)
    assert len(shots_of(ramp[::2], 5)) == 5


def test_a_shot_has_the_label_of_what_covers_most_of_it(footage: Path) -> None:
    shots = find_shots(footage / "a.mp4")
    from datasets.annotations.dataset import Instance

    assert [label_of(each, [Instance(2.5, 4, "x")]) for each in shots] == [BACKGROUND, "x", BACKGROUND]
    assert label_of(shots[1], [Instance(3.1, 4, "x")]) == BACKGROUND


def detections(footage: Path, tmp_path: Path, rule: str) -> list[tuple[float, float, str]]:
    output = tmp_path / "out.json"
    words = ["detect", str(footage / "annotations.json"), str(output), "--data", str(footage)]
    assert main([*words, "--rule", rule]) == 0
    found = json.loads(output.read_text())["results"]
    assert list(found) == ["c"]
    assert all(0 <= each["score"] <= 1 for each in found["c"])
    return [(*each["segment"], each["label"]) for each in found["c"]]


def test_every_shot_is_detected_with_a_class_that_needs_no_training(footage: Path, tmp_path: Path) -> None:
    times = [(0, 1), (1, 3), (3, 4.5), (4.5, 7)]
    assert detections(footage, tmp_path, "one-class") == [(*each, "action") for each in times]
    assert detections(footage, tmp_path, "most-frequent") == [(*each, "running") for each in times]
    assert detections(footage, tmp_path, "nearest-colours") == [(1, 3, "jumping"), (4.5, 7, "running")]


def test_labels_are_permuted_and_nothing_else_changes(footage: Path, tmp_path: Path) -> None:
    source = json.loads((footage / "annotations.json").read_text())["database"]
    seen = set()
    for seed in range(6):
        output = tmp_path / f"{seed}.json"
        assert main(["shuffle", str(footage / "annotations.json"), str(output), "--seed", str(seed)]) == 0
        database = json.loads(output.read_text())["database"]
        assert database["c"] == source["c"]
        labels = [each["label"] for name in "ab" for each in database[name]["annotations"]]
        assert Counter(labels) == {"running": 2, "jumping": 1}
        seen.add(tuple(labels))
        for name in "ab":
            times = [each["segment"] for each in database[name]["annotations"]]
            assert times == [each["segment"] for each in source[name]["annotations"]]
    assert len(seen) > 1
    again = tmp_path / "again.json"
    main(["shuffle", str(footage / "annotations.json"), str(again), "--seed", "5"])
    assert again.read_bytes() == (tmp_path / "5.json").read_bytes()


def test_one_label_for_all(footage: Path, tmp_path: Path) -> None:
    output = tmp_path / "one.json"
    assert main(["one-class", str(footage / "annotations.json"), str(output)]) == 0
    database = json.loads(output.read_text())["database"]
    assert {each["label"] for video in database.values() for each in video["annotations"]} == {"action"}


def test_tuning_videos_are_held_out_of_the_training_videos(footage: Path, tmp_path: Path, capsys) -> None:
    source, output = footage / "annotations.json", tmp_path / "tuning.json"
    assert main(["hold-out", str(source), str(output)]) == 0
    database = json.loads(output.read_text())["database"]
    subsets = {name: video.pop("subset") for name, video in database.items()}
    assert subsets == {"a": "training", "b": "tuning", "c": "testing"}
    for name, video in json.loads(source.read_text())["database"].items():
        assert {**database[name], "subset": video["subset"]} == video
    assert main(["hold-out", str(output), str(tmp_path / "again.json")]) == 2
    assert "beside none of the name 'tuning'" in capsys.readouterr().err


def test_what_subsets_share_is_counted(footage: Path, tmp_path: Path) -> None:
    output = tmp_path / "sources.json"
    assert main(["sources", str(footage / "annotations.json"), str(output), "--data", str(footage)]) == 0
    found = json.loads(output.read_text())
    assert found["lengths"]["running"] == {"training": {"2.00": 2}, "testing": {"2.50": 1}}
    assert found["nearest_colours"]["all instances"]["shots"] == 2
    assert found["nearest_colours"]["all instances"]["right"] == 2
    assert found["nearest_colours"]["jumping"]["median_difference_same"] < 5
    assert found["nearest_colours"]["jumping"]["median_difference_other"] > 40


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["detect"], "--data: needed for detect, allowed is the folder of the videos"),
        (["shuffle", "--training", "train"], "no instances in 'train', known are testing, training"),
        (["sources", "--testing", "test"], "subset: got 'test', known are testing, training"),
        (["detect", "--rule", "x"], "invalid choice: 'x'"),
    ],
)
def test_wrong_options_are_one_line(footage, tmp_path, capsys, words, line) -> None:
    data = [] if words == ["detect"] else ["--data", str(footage)]
    command = [words[0], str(footage / "annotations.json"), str(tmp_path / "out.json"), *words[1:], *data]
    assert main(command) == 2
    printed = capsys.readouterr()
    assert line in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def test_annotations_are_never_overwritten(footage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = footage / "annotations.json"
    before = path.read_bytes()
    assert main(["shuffle", str(path), str(path)]) == 2
    assert "holds the annotations" in capsys.readouterr().err
    assert path.read_bytes() == before
