"""The doctor and a run agree: on any layout of a folder, one has an error where the other has."""

import contextlib
import io
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bench.config.presets import default_protocol
from bench.doctor import main as doctor
from bench.io.errors import InputError
from bench.run.matrix import check_data, check_subsets
from bench.run.specification import RunSpecification, resolve_run
from datasets.annotations.reader import read_annotations
from datasets.checks import probing
from datasets.checks.probe_worker import look

sys.path.insert(0, str(Path(__file__).parents[1]))
from movies import write

LENGTHS = {"six": 60, "also": 59, "three": 30}
"""Frames of the films, ten a second."""


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("films")
    made = {name: write(folder / f"{name}.mp4", frames).read_bytes() for name, frames in LENGTHS.items()}
    return {**made, "broken": made["six"][:900], "text": b"no video"}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probe in this process: what is tested is which files are probed."""
    monkeypatch.setattr(probing, "_ask", lambda worker, path, seconds, how: look(path, **how))
    monkeypatch.setattr(probing, "Worker", lambda command: SimpleNamespace(running=True, close=lambda: None))


def run_accepts(path: Path, data: Path, cache: Path) -> tuple[bool, str]:
    """Return whether a run would begin to train, and what it says."""
    spec = RunSpecification(
        *("vit-t", "head-only", {}, str(path), str(data), str(cache), "source", 0, "cpu", {}, "unused")
    )
    assert spec.protocol() == default_protocol("vit-t", "cpu")
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            run = resolve_run(spec, spec.load_dataset())
            check_subsets(run)
            check_data(run)
        except InputError as error:
            return False, str(error)
    return True, said.getvalue()


def doctor_accepts(path: Path, data: Path, cache: Path) -> tuple[bool, str]:
    """Return whether the doctor finds no error, and what it says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = doctor([str(path), "--data", str(data), "--cache", str(cache / "c"), "--workers", "1"])
    return code < 2, said.getvalue()


PLAIN = {"annotations": [{"segment": [0.5, 2], "label": "run"}]}
GOOD: Any = {"a": {**PLAIN, "subset": "training"}, "b": {**PLAIN, "subset": "testing", "duration": 6.0}}


FOLDERS = st.sampled_from(("", "train/", "test/deep/"))
SUFFIXES = st.sampled_from((".mp4", ".MP4", ".mkv", ".m4v", ".ts"))
FIELDS = st.one_of(
    st.tuples(st.just("subset"), st.sampled_from(("training", "testing", "Training", "other"))),
    st.tuples(st.just("duration"), st.sampled_from((6.0, 3.0, 6.6, 60, None, "x"))),
    st.tuples(st.just("file"), st.sampled_from(("a.mp4", "train/b.mkv", "c.mp4", ""))),
    st.tuples(
        st.just("annotations"),
        st.lists(
            st.builds(
                lambda start, end, label: {"segment": [start, end], "label": label},
                st.sampled_from((-1, 0.5, 2, 5.9)),
                st.sampled_from((1, 2, 3.2, 5.5, 6.3, 9)),
                st.sampled_from(("run", "run", "jump")),
            ),
            max_size=2,
        ),
    ),
)


@st.composite
def folders(draw: st.DrawFn) -> tuple[Any, dict[str, str]]:
    """Return a database and the films by file name: good ones, then up to two changes of each."""
    database: Any = {"a": {**PLAIN, "subset": "training"}, "b": {**PLAIN, "subset": "testing"}}
    for name in draw(st.sets(st.sampled_from(("v_a", "c.mp4", "A")), max_size=2)):
        database[name] = {**PLAIN, "subset": draw(st.sampled_from(("training", "testing", "other")))}
    layout = {}
    for name in database:
        prefix = draw(st.sampled_from(("", "", "v_")))
        suffix = "" if name.endswith(".mp4") else draw(SUFFIXES)
        layout[f"{draw(FOLDERS)}{prefix}{name}{suffix}"] = "six"
        if draw(st.booleans()):
            database[name]["duration"] = 6.0
    for name, (field, value) in draw(
        st.lists(st.tuples(st.sampled_from(sorted(database)), FIELDS), max_size=2)
    ):
        database[name][field] = value
    for name, film in draw(
        st.lists(
            st.tuples(
                st.one_of(
                    st.sampled_from(sorted(layout)),
                    st.builds(
                        "{}{}{}".format, FOLDERS, st.sampled_from(("a", "b", "v_b", "A", "c.mp4")), SUFFIXES
                    ),
                    st.sampled_from((".hidden/a.mp4", "b", "a.txt")),
                ),
                st.sampled_from((None, "six", "six", "three", "broken", "text")),
            ),
            max_size=2,
        )
    ):
        layout.pop(name, None)
        if film is not None:
            layout[name] = film
    return database, layout


@pytest.mark.slow
@settings(max_examples=200, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(folders())
@example((GOOD, {"train/a.mp4": "six", "test/deep/b.mp4": "six"}))
@example((GOOD, {"a.mp4": "six", "train/a.mp4": "three", "b.mkv": "six"}))
@example((GOOD, {"a.mp4": "six", "b.mp4": "broken"}))
@example(({**GOOD, "c": {**PLAIN, "subset": "other"}}, {"a.mp4": "six", "b.mp4": "six"}))
def test_doctor_and_run_agree(
    films: dict[str, bytes], here: None, tmp_path: Path, folder: tuple[Any, dict[str, str]]
) -> None:
    database, layout = folder
    shutil.rmtree(tmp_path)
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir(parents=True)
    for name, film in layout.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(films[film])
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"database": database}))
    (theirs, said), (ours, answer) = doctor_accepts(path, data, cache), run_accepts(path, data, cache)
    assert theirs == ours, f"{said}\n{answer}"


def saved(folder: Path, films: dict[str, bytes], database: Any, **files: str) -> tuple[Path, Path, Path]:
    (folder / "data").mkdir()
    for name, film in files.items():
        (folder / "data" / f"{name}.mp4").write_bytes(films[film])
    path = folder / "own.json"
    path.write_text(json.dumps({"database": database}))
    return path, folder / "data", folder / "cache"


def test_a_good_layout_is_accepted_by_both(films: dict[str, bytes], here: None, tmp_path: Path) -> None:
    place = saved(tmp_path, films, GOOD, a="six", b="also")
    assert run_accepts(*place) == (True, "")
    assert doctor_accepts(*place)[0]


def test_what_the_doctor_warns_of_a_run_prints_a_line_a_kind(
    films: dict[str, bytes], here: None, tmp_path: Path
) -> None:
    twice = {**PLAIN, "annotations": PLAIN["annotations"] * 2}
    database = {
        "a": {**twice, "subset": "training", "duration": 60},
        "b": {**PLAIN, "subset": "testing", "duration": 60},
        "c": {**PLAIN, "subset": "trainig", "duration": 6},
    }
    place = saved(tmp_path, films, database, a="six", b="also", c="six")
    accepted, said = run_accepts(*place)
    assert accepted
    assert [
        line.removeprefix("bench.run: warning: ").rpartition("data/")[2][:60] for line in said.splitlines()
    ] == [
        "own.json: 1 videos of subset 'trainig' are not used, only th",
        "a.mp4: duplicate segment: run from 0.5 to 2 s is there twice",
        "a.mp4: shorter than annotated: 6 s in the file, 60 s in the ",
    ]
    assert "; 2 such findings, bench.doctor lists them" in said
    told = doctor_accepts(*place)[1]
    for kind in ("subsets alike", "duplicate segment", "shorter than annotated (2)"):
        assert f"warning: {kind}" in told


@pytest.mark.parametrize(
    ("change", "files", "message"),
    [
        ({"annotations": []}, {"a": "six", "b": "six"}, "of training, the training_subset, have no instance"),
        ({"subset": "Training"}, {"a": "six", "b": "six"}, "--protocol training_subset=Training"),
        ({"duration": 6}, {"b": "six"}, "no file for video 'a'"),
        ({"duration": 6}, {"a": "text", "b": "six"}, "data/a.mp4: undecodable: it is no video"),
        ({}, {"b": "six"}, "database.a.duration: missing, and no table"),
        ({}, {"a": "text", "b": "six"}, "a.mp4: it is no video"),
        (
            {"annotations": [{"segment": [1, 5.5], "label": "run"}], "duration": 6},
            {"a": "three", "b": "six"},
            "data/a.mp4: instances after the end: 1 instances end after the file's 3 s",
        ),
        (
            {"annotations": [{"segment": [3, 2], "label": "run"}]},
            {"a": "six", "b": "six"},
            "is not before end",
        ),
        (
            {"annotations": [{"segment": [1, 2], "label": "x"}]},
            {"a": "six", "b": "six"},
            "no class is in both",
        ),
    ],
)
def test_what_is_wrong_is_said_by_both_before_training(
    films: dict[str, bytes],
    here: None,
    tmp_path: Path,
    change: dict[str, Any],
    files: dict[str, str],
    message: str,
) -> None:
    place = saved(tmp_path, films, {**GOOD, "a": {**GOOD["a"], **change}}, **files)
    accepted, said = run_accepts(*place)
    assert not accepted
    assert message in said
    assert "\n" not in said
    assert not doctor_accepts(*place)[0]


@pytest.mark.parametrize(
    ("subset", "link", "accepted", "kind"),
    [
        ("testing", os.symlink, False, "error: same file\n"),
        ("testing", os.link, False, "error: same file\n"),
        ("training", os.symlink, True, "warning: same file\n"),
        ("testing", shutil.copy, True, "warning: copy\n"),
        ("training", shutil.copy, True, None),
        ("other", os.symlink, True, None),
    ],
)
def test_one_film_under_two_ids_is_found_by_both(
    films: dict[str, bytes],
    here: None,
    tmp_path: Path,
    subset: str,
    link: Any,
    accepted: bool,
    kind: str | None,
) -> None:
    database = {**GOOD, "film": {**PLAIN, "subset": subset, "duration": 6.0}}
    path, data, cache = saved(tmp_path, films, database, a="six", b="also")
    link(data / "a.mp4", data / "film.mp4")
    ours, said = run_accepts(path, data, cache)
    theirs, told = doctor_accepts(path, data, cache)
    assert (ours, theirs) == (accepted, accepted)
    if kind is None:
        assert said == ""
        assert "warning" not in told
    else:
        assert kind in told
        assert f"'a' (training) and 'film' ({subset}) have the same " in said
        assert f"'a' (training) and 'film' ({subset}) have the same " in told


def test_an_entry_with_the_file_of_another_is_the_same_film(
    films: dict[str, bytes], here: None, tmp_path: Path
) -> None:
    place = saved(tmp_path, films, {**GOOD, "b": {**GOOD["b"], "file": "a.mp4"}}, a="six")
    assert run_accepts(*place)[1].endswith(
        "a.mp4: same file: 'a' (training) and 'b' (testing) have the same file; its results say nothing "
        "about other videos"
    )
    assert not doctor_accepts(*place)[0]


@pytest.mark.parametrize(("duration", "accepted"), [(72.0, True), (72.5, False), (1e9, False)])
def test_a_duration_far_beyond_the_file_is_an_error_to_both(
    films: dict[str, bytes], here: None, tmp_path: Path, duration: float, accepted: bool
) -> None:
    database = {**GOOD, "a": {**GOOD["a"], "duration": duration}}
    place = saved(tmp_path, films, database, a="six", b="also")
    ours, said = run_accepts(*place)
    assert ours == doctor_accepts(*place)[0] == accepted
    assert f"shorter than annotated: 6 s in the file, {duration:g} s in the annotations" in said


def test_durations_come_from_the_videos_and_count_for_the_digest(
    films: dict[str, bytes], tmp_path: Path
) -> None:
    from datasets import load_dataset

    path, data, cache = saved(tmp_path, films, GOOD, a="six", b="six")
    dataset = load_dataset(path, data, cache)
    assert [video.duration for video in dataset.videos] == [6.0, 6.0]
    assert [video.frames_per_second for video in dataset.videos] == [10.0, None]
    [facts] = (cache / "doctor").glob("*.jsonl")
    assert len(facts.read_text().splitlines()) == 1
    assert load_dataset(path, data, cache).sha256 == dataset.sha256
    assert len(facts.read_text().splitlines()) == 1  # not probed again
    (data / "a.mp4").write_bytes(films["three"])
    other = load_dataset(path, data, cache)
    assert other.videos[0].duration == pytest.approx(3.0)
    assert other.sha256 != dataset.sha256
    (tmp_path / "info.csv").write_text("video,duration\na,4\n")
    assert load_dataset(path, data, cache).videos[0].duration == 4.0
    (tmp_path / "info.csv").unlink()
    (data / "a.mp4").unlink()
    with pytest.raises(InputError, match=r"database\.a\.duration: missing, and no table"):
        load_dataset(path, data, cache)


def test_an_error_in_the_cache_is_trusted_by_neither(
    films: dict[str, bytes], here: None, tmp_path: Path
) -> None:
    path, data, cache = saved(tmp_path, films, GOOD, a="six", b="also")
    known = probing.facts_file(data, cache)
    known.parent.mkdir(parents=True)
    identity = probing._identity(data / "a.mp4", False)
    line = json.dumps([f"{identity}|None", {"error": "reading it takes longer than 60 s"}]) + "\n"
    known.write_text(line)
    assert run_accepts(path, data, cache) == (True, "")
    (cache / "c").write_text(line)
    assert doctor_accepts(path, data, cache)[0]


def test_a_cache_that_cannot_be_written_is_done_without(
    films: dict[str, bytes], here: None, tmp_path: Path
) -> None:
    path, data, cache = saved(tmp_path, films, GOOD, a="six", b="also")
    cache.write_text("a file where a folder should be")
    assert run_accepts(path, data, cache) == (True, "")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("rate", [10, "10", "table", None, "-1"])
@pytest.mark.parametrize("duration", [3.0, None])
def test_folders_of_images_are_videos_to_both(tmp_path: Path, rate: Any, duration: float | None) -> None:
    from movies import numbered
    from PIL import Image

    data = tmp_path / "frames"
    entries: Any = {"a": {**PLAIN, "subset": "training"}, "b": {**PLAIN, "subset": "testing"}}
    for name, entry in entries.items():
        if rate not in ("table", None):
            entry["fps"] = rate
        if duration:
            entry["duration"] = duration
        (data / "deep" / name).mkdir(parents=True)
        for index in range(30):
            Image.fromarray(numbered(index)).save(data / "deep" / name / f"img_{index:05d}.png")
    if rate == "table":
        (tmp_path / "rates.csv").write_text("video,fps\na,10\nb,10.0\nc,5\n")
    path = tmp_path / "frames.json"
    path.write_text(json.dumps({"database": entries}))
    run, said = run_accepts(path, data, tmp_path / "cache")
    doctor, report = doctor_accepts(path, data, tmp_path / "cache")
    assert run == doctor == (rate not in (None, "-1")), (said, report)
    if not run:
        wrong = rate is not None and duration
        message = "a.fps: got -1, more than 0 is needed" if wrong else "needs its frames per second: `fps`"
        assert message in said
        assert ("a.fps: got -1, more than 0 is needed" if rate else message) in report
    else:
        assert {(v.duration, v.frames_per_second) for v in read_annotations(path, data).videos} == {(3, 10)}


def test_a_wrong_rate_in_a_table_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(json.dumps({"database": GOOD}))
    (tmp_path / "rates.csv").write_text("video,fps\na,fast\n")
    with pytest.raises(InputError, match=r"^rates\.csv: line 2: fps: got 'fast', a positive number"):
        read_annotations(tmp_path / "own.json")
