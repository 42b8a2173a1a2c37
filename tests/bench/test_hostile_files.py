"""A few hundred of what `python -m tests.fuzz` does by the thousand: results, weights, checkpoints, bombs."""

import dataclasses
import json
import math
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_kinds import kind

sys.path.insert(0, str(Path(__file__).parents[1]))
from fuzz import binary_files, result_files

from bench.io.writing import machine
from bench.records.progress import Progress, Waiting, read_progress, read_queues, write_progress
from bench.run.cluster.queue import Job, read_jobs, write_job

REPORT = Path(__file__).parents[2] / "results" / "hostile.json"


def test_results_with_a_wrong_file_are_read_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_files, "WHOLE_REPORT", 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = result_files.fuzz(tmp_path, 40, seed=1)
    assert found.failures == []
    assert sum(found.files.values()) == 40


def test_hostile_binaries_are_read_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary_files, "BOMB_BYTES", 2**28)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = binary_files.fuzz(tmp_path, 36, seed=2)
    assert found.failures == []
    assert sum(found.files.values()) == 36
    assert found.runs == 0


def test_the_fuzz_sees_code_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    def careless(path: Path) -> None:
        with path.open("rb") as file:
            pickle.load(file)

    monkeypatch.setattr(
        binary_files,
        "weights",
        lambda rng, material: (".pt", pickle.dumps(binary_files.Code(Path.unlink, material.canary))),
    )
    monkeypatch.setattr(binary_files, "MAKERS", {"weights": binary_files.weights})
    monkeypatch.setattr(binary_files, "readers", lambda material: {"weights": (careless,)})
    found = binary_files.fuzz(tmp_path, 1, seed=0, kinds=("weights",))
    assert found.runs == 1


@pytest.mark.parametrize(
    "content",
    ["[" * 10**6, "[]", "{}", '{"run": 1}', '[{"run": "a"}]', "[NaN]", '[["a", "b", "c", 1]]', "\\x00"],
)
def test_progress_that_is_none_is_passed_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "progress").mkdir()
    (tmp_path / "progress" / "a.json").write_text(content)
    (tmp_path / "progress" / f"queue+{machine()}+{os.getpid()}.json").write_text(content)
    os.mkfifo(tmp_path / "progress" / "pipe.json")
    assert read_progress(tmp_path) == []
    assert read_queues(tmp_path) == []


TEXT = kind(lambda v: isinstance(v, str), st.text(max_size=3))
INTEGER = kind(lambda v: type(v) is int, st.integers(-9, 9), 1.0, True, "1")
SECONDS = kind(
    lambda v: type(v) in (int, float) and abs(v) < math.inf,
    st.floats(-9, 9) | st.integers(0, 9),
    *("1", True, math.nan),
)
JOB = Job("a", "vit-t", "losa", 0, "local", "123", "here", 1.0)
TOLD = Progress("a", "vit-t", "losa", 0, "{}", "p", "train", 1, 2, 1.0, 1.0, 0, 1.0)
WAITS = Waiting("a", "vit-t", "losa", 0)
KINDS = {"str": TEXT, "int": INTEGER, "float": SECONDS}


def read_first_progress(results: Path) -> Any:
    return next(iter(read_progress(results)), None)


def read_first_job(results: Path) -> Any:
    return read_jobs(results).get("a")


def read_first_waiting(results: Path) -> Any:
    return next(iter(read_queues(results)), None)


@pytest.mark.parametrize(
    ("whole", "place", "read"),
    [
        (JOB, "jobs/a.json", read_first_job),
        (TOLD, "progress/a.json", read_first_progress),
        (WAITS, f"progress/queue+{machine()}+{os.getpid()}.json", read_first_waiting),
    ],
    ids=["job", "progress", "queue"],
)
def test_a_wrong_field_makes_it_none_and_good_ones_come_back(
    whole: Any, place: str, read: Callable[[Path], Any], tmp_path: Path
) -> None:
    path = tmp_path / place
    path.parent.mkdir()
    document = dataclasses.asdict(whole)

    def told(content: Any) -> Any:
        path.write_text(json.dumps([content] if whole is WAITS else content))
        return read(tmp_path)

    @given(st.data())
    def drawn(data: st.DataObject) -> None:
        field = data.draw(st.sampled_from(dataclasses.fields(whole)))
        assert told(document | {field.name: data.draw(KINDS[field.type].bad)}) is None
        assert told({**document, "more": 1}) is None
        lacking = {name: value for name, value in document.items() if name != field.name}
        optional = field.default_factory is not dataclasses.MISSING
        assert (told(lacking) is None) == (not optional)
        if field.name not in ("run", "job") or whole is WAITS:
            value = data.draw(KINDS[field.type].good)
            found = told(document | {field.name: value})
            assert found == dataclasses.replace(whole, **{field.name: value})
            assert type(getattr(found, field.name)) is type(value)

    drawn()


@pytest.mark.parametrize("change", [{"job": "../1"}, {"job": "-1"}, {"job": "1\n"}, {"run": "\x1b"}])
def test_jobs_whose_names_are_no_parts_of_paths_are_passed_over(
    tmp_path: Path, change: dict[str, object]
) -> None:
    write_job(tmp_path, JOB)
    assert read_jobs(tmp_path) == {"a": JOB}
    (tmp_path / "jobs" / "a.json").write_text(json.dumps({**dataclasses.asdict(JOB), **change}))
    assert read_jobs(tmp_path) == {}


def test_what_is_told_of_a_run_comes_back(tmp_path: Path) -> None:
    told = Progress("a", "vit-t", "losa", 0, "{}", "p", "train", 1, 2, 1.0, 1.0, 0, 1.0)
    write_progress(tmp_path, told)
    assert read_progress(tmp_path) == [told]
    text = (tmp_path / "progress" / "a.json").read_text()
    (tmp_path / "progress" / "a.json").write_text(text.replace('"done": 1', f'"done": {10**400}'))
    assert read_progress(tmp_path) == []


def test_the_committed_outcome_is_of_ten_thousand_files_and_none_did_harm() -> None:
    report = json.loads(REPORT.read_text())
    assert report["files"]["JSON"] + report["files"]["results' JSON"] >= 10_000
    assert report["files"]["binaries"] >= 200
    for harm in ("tracebacks", "hangs", "stray_writes", "code_run", "failures"):
        assert report[harm] == 0
    assert report["most_bytes_by_one_file"] < report["limits"]["bytes"]
    assert report["environment"]["dirty"] is False
