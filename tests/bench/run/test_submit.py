"""Runs as jobs: four at once, one killed, one pre-empted; what Slurm is asked for; nothing is sent twice."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT, bench_command, run_bench

from bench.io.errors import InputError
from bench.records.progress import read_progress
from bench.run.__main__ import main
from bench.run.cluster import queue as jobs_module
from bench.run.cluster.queue import read_jobs, states_of
from bench.status import rows

GOLDEN = Path(__file__).parents[2] / "golden" / "slurm_submission.sh"
pytest.importorskip("submitit", reason="launches jobs through it")


def records_in(results):
    return {path.stem: json.loads(path.read_text()) for path in (results / "records").glob("*.json")}


def wait_for(condition, seconds):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.1)
    return found


def ended(results):
    return not states_of(read_jobs(results).values())


@pytest.fixture
def no_job_left(tmp_path):
    """End the jobs that a test leaves."""
    yield
    for job in read_jobs(tmp_path).values():
        if job.launcher == "local" and job.run in states_of([job]):
            os.kill(int(job.job), signal.SIGKILL)
    for told in read_progress(tmp_path):
        try:
            os.kill(told.process, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds its jobs in /proc")
def test_four_jobs_at_once_of_which_one_is_killed(tiny_dataset, tmp_path, no_job_left):
    options = ("--launcher", "local", "--workers", "4", "--seeds", "0,1,2,3")
    first = run_bench(tiny_dataset, tmp_path, *options)
    assert first.returncode == 0, first.stderr
    assert "4 jobs submitted" in first.stderr
    submitted = read_jobs(tmp_path)
    assert len({job.job for job in submitted.values()}) == 4
    told = wait_for(lambda: read_progress(tmp_path), 120)[0]
    os.kill(told.process, signal.SIGKILL)  # what drives the run; the run's own process then ends by itself
    again = run_bench(tiny_dataset, tmp_path, *options)
    assert again.returncode == 0, again.stderr
    # Of the runs that have not ended by now, all have jobs, or all but the killed one.
    told_of = re.search(r"(\d) of ([1-4]) runs already have jobs", again.stderr)
    assert told_of or "all 4 runs" in again.stderr, again.stderr
    assert told_of is None or int(told_of[2]) - int(told_of[1]) in (0, 1), again.stderr
    wait_for(lambda: ended(tmp_path), 240)
    killed = {row.run: row for row in rows(tmp_path)}[told.run]
    if "1 jobs submitted" not in again.stderr:  # the first one's end may have been seen already
        assert killed.state == "interrupted"
        third = run_bench(tiny_dataset, tmp_path, *options)
        assert "1 jobs submitted" in third.stderr
        assert list(map(str, read_jobs(tmp_path))) == list(map(str, submitted))
        wait_for(lambda: ended(tmp_path), 240)
    records = records_in(tmp_path)
    assert sorted(each["seed"] for each in records.values()) == [0, 1, 2, 3]
    assert all(each["status"] == "ok" for each in records.values()), records
    for name, job in read_jobs(tmp_path).items():
        assert (job.job != submitted[name].job) == (name == told.run)  # the others were done once
    assert [row.state for row in rows(tmp_path)] == ["done"] * 4
    last = run_bench(tiny_dataset, tmp_path, *options)
    assert last.returncode == 0
    assert "all 4 runs have records" in last.stderr
    assert "head-only" in last.stdout
    assert not list((tmp_path / "progress").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds its jobs in /proc")
def test_a_job_that_is_preempted_goes_on_from_where_it_was(tiny_dataset, tmp_path, no_job_left):
    options = ("--launcher", "local", "--protocol", "steps=400", "--checkpoint-seconds", "100000")
    process = run_bench(tiny_dataset, tmp_path, *options)
    assert process.returncode == 0, process.stderr
    [job] = read_jobs(tmp_path).values()
    steps = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        told = wait_for(
            lambda: [p for p in read_progress(tmp_path) if p.phase == "head" and p.done > sum(steps[-1:])],
            120,
        )[0]
        os.kill(told.process, number)
        wait_for(lambda told=told: not Path(f"/proc/{told.process}").exists(), 60)
        assert not records_in(tmp_path)
        assert (tmp_path / "unfinished" / f"{job.run}.pt").exists()
        steps.append(told.done)
    wait_for(lambda: records_in(tmp_path), 120)
    [record] = records_in(tmp_path).values()
    assert record["status"] == "ok", record["message"]
    first, second = record["cost"]["resumed_after_steps"]
    assert steps[0] <= first < steps[1] <= second < 400
    wait_for(lambda: ended(tmp_path), 60)
    assert read_jobs(tmp_path) == {job.run: job}
    assert not list((tmp_path / "unfinished").iterdir())


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A sbatch that keeps what it is given, and a squeue that says what ``queue`` holds."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "srun": "exit 1",
        "sbatch": f'n=$(ls {folder} | grep -c "^sent"); cp "$1" {folder}/sent$n.sh\n'
        "echo Submitted batch job $((4242 + n))",
        "squeue": f"cat {folder}/queue",
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    (folder / "queue").write_text("")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


WORDS = (
    *("--launcher", "slurm", "--slurm", "gpus=h200:141,a100:80", "--slurm", "time=120"),
    *("--slurm", "partition=gpu", "--slurm", "account=vision", "--slurm", "reservation=night"),
    *("--slurm", "exclude=node1,node2", "--slurm", "setup=module load cuda"),
)


def normal(text, results, dataset):
    """Return a submission file without what differs between machines."""
    places = ((str(results), "RESULTS"), (sys.executable, "PYTHON"), (str(ROOT), "ROOT"))
    for found, name in (*places, (f"{dataset.name}_", "DATASET_")):
        text = text.replace(found, name)
    return re.sub(r"_[0-9a-f]{8}(?=[;'])", "_DIGEST", text)


def slurm_words(dataset, results, *more, strategies="head-only"):
    command = bench_command(dataset, results, *WORDS, *more, strategies=strategies)[3:]
    command[command.index("--device") + 1] = "auto"
    return command


def no_forecast(monkeypatch):
    """Spare the seconds of a process that forecasts; as if that had failed."""
    monkeypatch.setattr("bench.run.cluster.resources.forecast_or_none", unknown)
    monkeypatch.setattr("bench.run.cluster.resources.forecast_pool", ThreadPoolExecutor)


def unknown(question):
    return None


@pytest.mark.slow
def test_the_submission_to_slurm_is_the_golden_one(tiny_dataset, tmp_path, slurm, capsys, monkeypatch):
    results = tmp_path / "results"
    assert main(slurm_words(tiny_dataset, results)) == 0
    error = capsys.readouterr().err
    found = normal((slurm / "sent0.sh").read_text(), results, tiny_dataset)
    if os.environ.get("WRITE_GOLDEN"):
        GOLDEN.write_text(found)
    assert found == GOLDEN.read_text()
    assert re.search(r"head-only seed 0: job 4242, 1 x a100, \d+ GiB, 9 cores, 120 min", error)
    assert "1 jobs submitted" in error
    no_forecast(monkeypatch)
    [row] = rows(results)
    assert (row.state, row.job) == ("interrupted", "slurm 4242")  # the queue does not know it
    for state, count in (("PENDING", 1), ("RUNNING", 1), ("", 2)):
        (slurm / "queue").write_text(f"17 RUNNING\n4242 {state}\n" if state else "17 RUNNING\n")
        if state:
            [row] = rows(results)
            assert (row.state, row.reason) == ("waiting", state.lower())
        assert main(slurm_words(tiny_dataset, results)) == 0
        assert len(list(slurm.glob("sent*"))) == count
    assert "the largest (h200) is requested" in capsys.readouterr().err  # without a forecast
    assert "--gres=gpu:h200:1" in (slurm / "sent1.sh").read_text()
    (slurm / "squeue").write_text("#!/bin/sh\necho slurm is away >&2\nexit 1\n")
    assert main(slurm_words(tiny_dataset, results)) == 2
    assert capsys.readouterr().err.strip() == (
        "bench.run: --launcher slurm: squeue cannot be queried (slurm is away)"
    )
    assert len(list(slurm.glob("sent*"))) == 2
    [row] = rows(results)
    assert (row.state, "slurm is away" in row.reason) == ("interrupted", True)


def test_what_slurm_refuses_is_one_line(tiny_dataset, tmp_path, slurm, capsys, monkeypatch):
    no_forecast(monkeypatch)
    (slurm / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    assert main(slurm_words(tiny_dataset, tmp_path / "results")) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("bench.run: --launcher slurm: nothing more was submitted")
    assert "invalid partition" in lines[-1]
    assert not read_jobs(tmp_path / "results")


def test_without_slurm_it_says_so(tiny_dataset, tmp_path, capsys):
    command = bench_command(tiny_dataset, tmp_path, "--launcher", "slurm", "--slurm", "time=5")[3:]
    assert main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == "bench.run: --launcher slurm: there is no sbatch here, submit where Slurm is installed"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--slurm", "time=5"), "--slurm: allowed only with --launcher slurm"),
        (("--launcher", "local", "--slurm", "time=5"), "--slurm: allowed only with --launcher slurm"),
        (("--launcher", "slurm", "--slurm", "time"), "--slurm: got 'time', allowed is KEY=VALUE"),
        (("--launcher", "slurm", "--slurm", "time=1:30"), "got time=1:30, allowed are minutes"),
        (("--launcher", "slurm", "--slurm", "mem=0"), "got mem=0, allowed are GiB"),
        (("--launcher", "slurm", "--slurm", "gpus=2"), "allowed is NAME:GB"),
        (("--launcher", "slurm", "--device", "cuda:1"), "allowed with --launcher slurm are auto, cpu"),
    ],
)
def test_options_that_cannot_be_are_one_line(options, words, tiny_dataset, tmp_path, capsys):
    assert main(bench_command(tiny_dataset, tmp_path, *options)[3:]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert words in error


def test_two_states_of_one_job_number(tmp_path, monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    job = jobs_module.Job("run", "vit-t", "losa", 0, "local", str(gone.pid), jobs_module.machine(), 0.0)
    assert states_of([job]) == {}
    mine = jobs_module.Job(**{**vars(job), "job": str(os.getpid())})  # a number that another program got
    assert states_of([mine]) == {}
    monkeypatch.setattr(jobs_module, "machine", lambda: "another")
    assert states_of([mine]) == {}
    assert jobs_module.read_jobs(tmp_path) == {}
    with pytest.raises(InputError, match="is no folder"):
        rows(tmp_path / "none")
