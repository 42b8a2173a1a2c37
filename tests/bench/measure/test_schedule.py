"""Rows measured one after the other while other processes work: with processes that only pretend to."""

import contextlib
import json
import math
import sys
import time
from pathlib import Path

import pytest

from bench.measure.__main__ import main
from bench.measure.rows import Job, waiting_measurements, write_measured
from bench.measure.schedule import Budget, Schedule, Settings
from bench.plan.request import ForecastRequest
from bench.run.worker import exit_status

WORKER = str(Path(__file__).with_name("fake_worker.py"))


@pytest.fixture
def log(monkeypatch, tmp_path):
    """The file in which the processes that stand for real ones say what they do."""
    monkeypatch.setattr("bench.measure.schedule.module_command", lambda module: (sys.executable, WORKER))
    monkeypatch.setattr(exit_status, "_counters", list)
    monkeypatch.setattr(exit_status, "VMSTAT", tmp_path / "vmstat")
    (tmp_path / "vmstat").write_text("oom_kill 0\n")
    monkeypatch.setenv("VMSTAT", str(tmp_path / "vmstat"))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    (tmp_path / "log").touch()
    return tmp_path / "log"


def jobs(folder, *strategies, operations=0.0):
    return [
        Job(ForecastRequest("vit-t", name, {}, {}, "cpu"), folder / "memory" / f"{name}.json", operations, 0)
        for name in strategies
    ]


def made(folder, asked, *, seconds=math.inf, known=None, **settings):
    """Make rows; return them by strategy, and the lines on jobs without one."""
    budget = Budget(seconds, "cpu")
    with Schedule(Settings("cpu", {"device": "a processor"}, **settings), budget) as schedule:
        schedule.begin(asked, known or {})
        schedule.turns.release()
        schedule.finish()
        problems = list(schedule.problems)
    rows = {path.stem: json.loads(path.read_text()) for path in (folder / "memory").glob("*.json")}
    return rows, problems


def test_a_process_that_is_killed_is_a_row_and_the_next_goes_on(log, tmp_path):
    rows, problems = made(tmp_path, jobs(tmp_path, "kill", "oom", "good"))
    assert problems == []
    assert {name: row["status"] for name, row in rows.items()} == {
        "kill": "error",
        "oom": "out-of-memory",
        "good": "ok",
    }
    assert rows["kill"]["message"] == "killed by signal 9 (SIGKILL)"
    assert rows["kill"]["measured"] is None
    assert rows["kill"]["environment"] == {"device": "a processor"}
    assert rows["kill"]["predicted_peak_bytes"] == 1000
    assert waiting_measurements(tmp_path) == []


def test_the_device_is_given_to_one_at_a_time_and_to_the_first_that_is_built(log, tmp_path):
    rows, _ = made(tmp_path, jobs(tmp_path, "slow", "b", "c", "d"), builders=4, forecasters=2)
    assert set(rows) == {"slow", "b", "c", "d"}
    lines = [line.split() for line in log.read_text().splitlines()]
    turns = [line for line in lines if line[0] in ("begin", "end")]
    assert [name for _, name in turns[::2]] == [name for _, name in turns[1::2]]
    assert [what for what, _ in turns] == ["begin", "end"] * 4
    assert turns[-1] == ["end", "slow"]
    # The fourth is built before the first has been measured.
    assert lines.index(["build", "d"]) < lines.index(["begin", "slow"])


def test_alone_nothing_else_runs_beside_a_measurement(log, tmp_path):
    rows, _ = made(tmp_path, jobs(tmp_path, "a", "b"), alone=True)
    assert [row["processes_beside"] for row in rows.values()] == [0, 0]
    whole = [f"{word} {name}" for name in "ab" for word in ("forecast", "build", "begin", "end")]
    assert log.read_text().splitlines() == whole


def test_a_row_that_would_end_too_late_is_not_begun_and_a_shorter_one_is(log, tmp_path):
    long = jobs(tmp_path, "long", operations=1e15)
    rows, problems = made(tmp_path, [*long, *jobs(tmp_path, "short")], seconds=60)
    assert (set(rows), problems) == ({"short"}, [])
    assert "build long" not in log.read_text()


def test_the_expectation_follows_what_rows_take(tmp_path):
    [job] = jobs(tmp_path, "any")
    budget = Budget(100, "cpu")
    first = budget.expected(job)
    budget.learn(job, 3 * first)
    assert budget.expected(job) == pytest.approx(3 * first)


def test_when_time_is_up_a_measurement_is_ended_and_gives_no_row(log, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.measure.schedule.START_SECONDS", {"cpu": 1.0})
    started = time.monotonic()
    rows, problems = made(tmp_path, jobs(tmp_path, "sleep"), seconds=4)
    assert time.monotonic() - started < 9
    assert rows == {}
    assert problems in ([], ["vit-t sleep (): not measured: time was up"])


def test_an_interruption_ends_all_processes_at_once_and_keeps_what_was_written(log, tmp_path):
    budget = Budget(math.inf, "cpu")
    with contextlib.suppress(KeyboardInterrupt), Schedule(Settings("cpu", {}), budget) as schedule:
        schedule.begin(jobs(tmp_path, "good", "sleep"), {})
        schedule.turns.release()
        until, written = time.monotonic() + 60, tmp_path / "memory" / "good.json"
        while not ("begin sleep" in log.read_text() and written.exists()) and time.monotonic() < until:
            time.sleep(0.05)
        processes = [worker.process for worker in schedule._processes]
        started = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - started < 5
    assert processes
    assert all(process.poll() is not None for process in processes)
    assert [path.name for path in (tmp_path / "memory").glob("*.json")] == ["good.json"]


def test_a_measurement_without_forecast_gets_it_later_and_is_not_measured_again(log, tmp_path):
    asked = jobs(tmp_path, "refused", "good")
    rows, problems = made(tmp_path, asked)
    assert set(rows) == {"good"}
    assert problems == ["vit-t refused (): no forecast: no such"]
    [(path, question, measured)] = waiting_measurements(tmp_path)
    assert (path, question.strategy, measured["status"]) == (asked[0].path, "refused", "ok")
    log.write_text("")
    other = Job(ForecastRequest("vit-t", "other", {}, {}, "cpu"), path, 0.0, 0)
    rows, problems = made(tmp_path, [other], known={path: measured})
    assert rows["refused"]["measured"] == measured["measured"]
    assert log.read_text().splitlines() == ["forecast other"]
    assert waiting_measurements(tmp_path) == []


def test_measurements_of_another_machine_get_their_forecasts_without_a_device(log, tmp_path, capsys):
    [job] = jobs(tmp_path, "good")
    measured = {"peak_allocated_bytes": 1000, "seconds_per_step": 0.5, "clips_per_second": 2.0}
    environment = {"device": "a card"}
    write_measured(job, {"status": "ok", "message": None, "measured": measured, "environment": environment})
    words = ["--suite", "--parts", "forecasts", "--device", "cuda", "--results", str(tmp_path)]
    assert main(words) == 0
    assert json.loads(job.path.read_text())["environment"] == environment
    assert log.read_text().splitlines() == ["forecast good"]
    assert "| vit-t | good | plain |" in capsys.readouterr().out
    assert not job.measured_path.parent.exists()
