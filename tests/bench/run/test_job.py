"""What a job does with signals and with input that turns out bad; no run is really done here."""

import dataclasses
import json
import os
import pickle
import signal

import pytest
from conftest import bench_command

from bench.io.errors import InputError
from bench.run import scheduler as runner
from bench.run.cluster.job import RunJob
from bench.run.options import parser, specifications

pytest.importorskip("submitit", reason="jobs end through it")


@pytest.fixture
def job(tiny_dataset, tmp_path):
    """A job in this process, whose signals are as before afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    [spec] = specifications(parser().parse_args(bench_command(tiny_dataset, tmp_path)[3:]))
    yield RunJob(dataclasses.asdict(spec), None, 1800.0, "cancelled", None)
    for number, handler in before.items():
        signal.signal(number, handler)


def records_in(results):
    return [json.loads(path.read_text()) for path in (results / "records").glob("*.json")]


def while_running(monkeypatch, *numbers):
    """Let signals come while the run goes on, the later ones while it ends."""

    def run_matrix(*_):
        try:
            os.kill(os.getpid(), numbers[0])
        except runner.PreemptedError:
            for number in numbers[1:]:
                os.kill(os.getpid(), number)
            raise

    monkeypatch.setattr(runner, "run_matrix", run_matrix)


@pytest.mark.parametrize(
    ("executor", "numbers", "queued"),
    [
        ("slurm", (signal.SIGUSR2,), True),
        ("slurm", (signal.SIGTERM,), False),
        ("slurm", (signal.SIGTERM, signal.SIGUSR2), True),
        ("local", (signal.SIGTERM,), True),
    ],
)
def test_signals_end_the_run_and_queue_the_job_again(executor, numbers, queued, job, tmp_path, monkeypatch):
    asked = []

    def submitit(number, frame):
        asked.append(number)
        raise SystemExit(144)

    monkeypatch.setenv("SUBMITIT_EXECUTOR", executor)
    signal.signal(signal.SIGUSR2, submitit)
    while_running(monkeypatch, *numbers)
    with pytest.raises(SystemExit) as caught:
        job()
    assert asked == ([signal.SIGUSR2] if queued else [])
    assert caught.value.code == (144 if queued else 143)
    assert not records_in(tmp_path)
    again = pickle.loads(pickle.dumps(job.checkpoint().function))
    assert again == job


def test_a_job_without_scontrol_ends_and_is_left_to_the_same_command(job, tmp_path, monkeypatch, capsys):
    def submitit(number, frame):
        raise FileNotFoundError("scontrol")

    signal.signal(signal.SIGUSR2, submitit)
    while_running(monkeypatch, signal.SIGUSR2)
    with pytest.raises(SystemExit):
        job()
    assert "not queued again (scontrol)" in capsys.readouterr().err
    assert not records_in(tmp_path)


def test_too_many_time_limits_are_a_timeout_row(job, tmp_path, monkeypatch):
    from submitit.core.utils import UncompletedJobError

    def submitit(number, frame):
        raise UncompletedJobError("Job not requeued because: timed-out too many times.")

    signal.signal(signal.SIGUSR2, submitit)
    while_running(monkeypatch, signal.SIGUSR2)
    with pytest.raises(UncompletedJobError):
        job()
    [record] = records_in(tmp_path)
    assert (record["status"], record["phase"]) == ("timeout", "job")
    assert "timed-out too many times" in record["message"]


def test_bad_input_in_a_job_is_a_row_that_the_same_command_does_again(job, tmp_path, monkeypatch):
    def run_matrix(*_):
        raise InputError("clip_0.mp4: its last frame cannot be decoded")

    monkeypatch.setattr(runner, "run_matrix", run_matrix)
    with pytest.raises(InputError):
        job()
    [record] = records_in(tmp_path)
    assert (record["status"], "clip_0.mp4" in record["message"]) == ("cancelled", True)


def test_a_job_that_finds_its_run_done_says_so(job, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "run_matrix", lambda *_: [])
    assert job() == "run by another process: no record"
    assert not records_in(tmp_path)
