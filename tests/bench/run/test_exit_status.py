"""How a dead run's process is told of: what a signal ended, and what the system killed for want of memory."""

import io
import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, bench_command, records_of

from bench.run.worker import exit_status as deaths
from bench.run.worker.exit_status import classify_exit

GROUPS = Path("/sys/fs/cgroup")
LIMIT_BYTES = 2560 * 2**20


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """A function that sets how many processes the system has killed."""

    def set_to(number):
        (tmp_path / "vmstat").write_text(f"nr_free_pages 7\noom_kill {number}\n")

    set_to(5)
    monkeypatch.setattr(deaths, "VMSTAT", tmp_path / "vmstat")
    monkeypatch.setattr(deaths, "OWN_GROUPS", tmp_path / "absent")
    return set_to


def told(code, before=5, said=b"", processes=1):
    found = classify_exit(code, io.BytesIO(said), before, processes)
    return found["status"], found["message"], found["failure"]


def test_what_the_system_killed_is_out_of_memory(counted):
    counted(6)
    expected = ("out-of-memory", "killed by the system, which ran out of host memory", None)
    assert told(-signal.SIGKILL) == expected
    assert told(1, said=b"a worker died", processes=2) == expected
    assert told(1, said=b"no such module") == ("error", "ended with exit code 1: no such module", None)


def test_what_others_killed_is_not(counted):
    assert told(-signal.SIGKILL) == ("error", "killed by signal 9 (SIGKILL)", {"signal": "SIGKILL"})
    counted(6)
    assert told(-signal.SIGSEGV) == ("error", "killed by signal 11 (SIGSEGV)", {"signal": "SIGSEGV"})


def test_where_the_system_does_not_count_both_are_possible(counted, monkeypatch, tmp_path):
    words = "killed by signal 9 (SIGKILL), as the system does when memory runs out"
    assert told(-signal.SIGKILL, before=None) == ("error", words, {"signal": "SIGKILL"})
    monkeypatch.setattr(deaths, "VMSTAT", tmp_path / "absent")
    assert told(-signal.SIGKILL) == ("error", words, {"signal": "SIGKILL"})


def test_the_last_line_is_told_of_what_ended_by_itself(counted):
    said = b"x" * 9000 + b"\nfirst\nthe last line\n"
    assert told(3, said=said) == ("error", "ended with exit code 3: the last line", None)
    assert told(None) == ("error", "ended with exit code None", None)


@pytest.mark.parametrize(
    ("own", "file"),
    [
        ("9:pids:/\n4:cpu,memory:/job/7\n0::/\n", "memory/job/7/memory.oom_control"),
        ("0::/job/7\n", "job/7/memory.events"),
        ("0::/the/name/that/the/host/knows\n", "memory.events"),
    ],
)
def test_the_groups_own_count_comes_first(own, file, counted, monkeypatch, tmp_path):
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(deaths, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(deaths, "GROUPS", tmp_path / "groups")
    assert deaths.oom_kill_count() == 5, "the machine's, as the group has no file"
    (tmp_path / "groups" / file).parent.mkdir(parents=True)
    (tmp_path / "groups" / file).write_text("under_oom 0\noom_kill 2\n")
    assert deaths.oom_kill_count() == 2


@pytest.fixture
def small_group():
    """A control group whose processes may take LIMIT_BYTES together."""
    version_1 = (GROUPS / "memory").is_dir()
    group = (GROUPS / "memory" if version_1 else GROUPS) / f"talbench-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if version_1 else "memory.max")).write_text(str(LIMIT_BYTES))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    yield group
    group.rmdir()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_really_runs_out_of_host_memory_is_a_row_that_stays(
    processes, small_group, tiny_dataset, plugin, tmp_path
):
    def join() -> None:
        (small_group / "cgroup.procs").write_text(str(os.getpid()))

    options = ("--processes", str(processes)) if processes > 1 else ()
    command = bench_command(tiny_dataset, tmp_path, *options, strategies="faulty-hungry")
    environment = {**os.environ, "PYTHONPATH": str(plugin)}
    for line in ("1 of 1 runs to do", "all 1 runs have records"):  # it would only die again
        done = subprocess.run(
            command, cwd=ROOT, env=environment, preexec_fn=join, capture_output=True, text=True, timeout=240
        )
        assert (done.returncode, line in done.stderr) == (1, True), done.stderr
    record = records_of(tmp_path)["faulty-hungry"]
    assert record["status"] == "out-of-memory"
    assert record["phase"]
    assert record["message"] == "killed by the system, which ran out of host memory"
