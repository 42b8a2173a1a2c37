"""A few hundred of what `python -m tests.fuzz` does by the thousand: results, weights, checkpoints, bombs."""

import dataclasses
import json
import os
import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from fuzz import binary_files, result_files

from bench.io.writing import machine
from bench.records.progress import Progress, read_progress, read_queues, write_progress
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


@pytest.mark.parametrize("change", [{"job": "../1"}, {"job": "-1"}, {"run": "\x1b"}, {"seed": None}])
def test_jobs_that_are_none_are_passed_over(tmp_path: Path, change: dict[str, object]) -> None:
    job = Job("a", "vit-t", "losa", 0, "local", "123", "here", 1.0)
    write_job(tmp_path, job)
    assert read_jobs(tmp_path) == {"a": job}
    (tmp_path / "jobs" / "a.json").write_text(json.dumps({**dataclasses.asdict(job), **change}))
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
