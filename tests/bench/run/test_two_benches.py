"""Two benches on one results folder: every run once, none lost; and missing locks."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, bench_command
from made_records import record as made_record

from bench.io.errors import InputError
from bench.io.writing import machine, temp_path
from bench.records.locks import check_locks, is_locked, locked, try_lock
from bench.records.progress import Waiting, read_progress, read_queues, write_queue
from bench.records.record import write_record
from bench.run.__main__ import main
from bench.run.pending import remove_stale_files, stamps, still_pending

HOLDER = """
import sys, time
from pathlib import Path
from bench.records.locks import try_lock
lock = try_lock(Path(sys.argv[1]), sys.argv[2])
assert lock is not None
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def other_bench(tmp_path):
    """Return a way to let another process hold the lock of a run of ``tmp_path``."""
    started = []

    def hold(name):
        command = [sys.executable, "-c", HOLDER, str(tmp_path), name]
        started.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def start_bench(dataset, results, *options, strategies="head-only"):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = bench_command(dataset, results, "--workers", "1", *options, strategies=strategies)
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def records_in(results):
    return {path.stem: json.loads(path.read_text()) for path in (results / "records").glob("*.json")}


@pytest.mark.slow
def test_two_benches_at_once_do_every_run_once(tiny_dataset, tmp_path):
    options = ("--seeds", "0,1")
    benches = [start_bench(tiny_dataset, tmp_path, *options, strategies="head-only,losa") for _ in range(2)]
    said = [bench.communicate(timeout=300)[1] for bench in benches]
    assert [bench.returncode for bench in benches] == [0, 0], said
    records = records_in(tmp_path)
    assert {(each["strategy"]["name"], each["seed"]) for each in records.values()} == {
        (name, seed) for name in ("head-only", "losa") for seed in (0, 1)
    }
    assert all(each["status"] == "ok" for each in records.values())
    for each in records.values():
        line = f"{each['strategy']['name']} seed {each['seed']}: average mAP"
        assert [text.count(line) for text in said] in ([0, 1], [1, 0]), (line, said)
    shares = [text.count(": average mAP") for text in said]
    assert sum(shares) == 4
    assert min(shares) >= 1, said  # both took part
    assert not list((tmp_path / "progress").iterdir())
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.slow
def test_what_a_killed_bench_held_is_done_by_the_other(tiny_dataset, tmp_path):
    first = start_bench(tiny_dataset, tmp_path, strategies="head-only,losa")
    second = None
    try:
        while not (told := read_progress(tmp_path)):
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
        assert told[0].strategy == "head-only"
        first.send_signal(signal.SIGSTOP)  # it holds its run, and does nothing more
        second = start_bench(tiny_dataset, tmp_path, strategies="head-only,losa")
        said = []
        while "waiting for" not in (line := second.stderr.readline()):
            assert line, said
            said.append(line)
        assert line == "waiting for head-only seed 0, which another process runs\n"
        assert [each["strategy"]["name"] for each in records_in(tmp_path).values()] == ["losa"]
        time.sleep(2.5)  # quiet
        first.kill()
        said += second.communicate(timeout=300)[1].splitlines(keepends=True)
        assert second.returncode == 0, said
    finally:
        for bench in (first, second):
            if bench:
                bench.kill()
                bench.communicate()
    assert not any("waiting for" in line for line in said)
    assert sorted(line.split(":")[0] for line in said if "average mAP" in line) == [
        "head-only seed 0",
        "losa seed 0",
    ]
    assert all(each["status"] == "ok" for each in records_in(tmp_path).values())


def test_a_lock_ends_with_its_process_and_is_nobodys_child(tmp_path, other_bench):
    assert not is_locked(tmp_path, "run")
    process = other_bench("run")
    assert is_locked(tmp_path, "run")
    assert try_lock(tmp_path, "run") is None
    other = try_lock(tmp_path, "another")
    assert other is not None
    other.release()
    process.kill()
    process.wait()
    assert not is_locked(tmp_path, "run")
    with locked(tmp_path, "run"):
        assert is_locked(tmp_path, "run")
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        assert not is_locked(tmp_path, "run")  # the child lives, and holds nothing
    finally:
        child.kill()
        child.wait()


def record_of(identifier, status="error", **fields):
    return {**made_record("losa", status=status), "id": identifier, **fields}


@pytest.mark.parametrize("redo", ["cancelled", "failed", "all"])
@pytest.mark.parametrize(
    ("fields", "again"),
    [
        ({"status": "ok"}, False),
        ({"status": "error"}, False),
        ({"status": "cancelled"}, True),
        ({"failure": {"signal": "SIGKILL"}}, True),
    ],
)
def test_what_another_bench_did_meanwhile_is_not_done_again(redo, fields, again, tmp_path):
    write_record(tmp_path, record_of("old", **fields))
    known = stamps(tmp_path)
    write_record(tmp_path, record_of("new", **fields))
    assert still_pending("new", tmp_path, redo, known) == again
    assert still_pending("none", tmp_path, redo, known)
    expected = again or redo == "all" or (redo == "failed" and fields.get("status") != "ok")
    assert still_pending("old", tmp_path, redo, known) == expected
    write_record(tmp_path, record_of("old", **fields))
    assert still_pending("old", tmp_path, redo, known) == again


def test_what_a_living_bench_holds_is_not_cleared_away(tmp_path, other_bench):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    kept, removed = [], []
    for name, paths in (("theirs", kept), ("nobodys", removed)):
        for place in (f"records/{name}.json", f"detections/{name}.json.gz", f"unfinished/{name}.pt"):
            mine = temp_path(tmp_path / place)
            paths.append(mine.with_name(mine.name.replace(f".{os.getpid()}.", f".{gone.pid}.")))
        paths.append(tmp_path / "unfinished" / f"{name}.pt")
        paths.append(tmp_path / "progress" / f"{name}.json")
        write_record(tmp_path / "records", record_of(name, status="ok"))
    for path in (*kept, *removed):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    holder = other_bench("theirs")
    remove_stale_files(tmp_path, [], frozenset())
    assert [path for path in (*kept, *removed) if path.exists()] == kept
    holder.kill()
    holder.wait()
    remove_stale_files(tmp_path, [], frozenset())
    assert not any(path.exists() for path in kept)


def test_queues_are_those_of_living_benches(tmp_path):
    waiting = [Waiting("run", "vit-t", "losa", 3)]
    write_queue(tmp_path, waiting)
    [path] = (tmp_path / "progress").iterdir()
    assert read_queues(tmp_path) == waiting
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = path.with_name(f"queue+{machine()}+{gone.pid}.json")
    path.rename(left)
    elsewhere = path.with_name(f"queue+other-machine+{gone.pid}.json")
    elsewhere.write_bytes(left.read_bytes())
    assert read_queues(tmp_path) == waiting  # the other machine's, which was written just now
    os.utime(elsewhere, (time.time() - 700,) * 2)
    assert read_queues(tmp_path) == []
    remove_stale_files(tmp_path, [], frozenset())
    assert not list((tmp_path / "progress").iterdir())
    write_queue(tmp_path, waiting)
    write_queue(tmp_path, [])
    assert not list((tmp_path / "progress").iterdir())


def without_locks(monkeypatch, error):
    def flock(handle, operation):
        raise error

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, os.strerror(number)) for number in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)),
        NotImplementedError(),
    ],
    ids=lambda error: errno.errorcode.get(getattr(error, "errno", None), "none"),
)
def test_a_file_system_without_locks_is_refused_in_one_line(
    error, tiny_dataset, tmp_path, capsys, monkeypatch
):
    without_locks(monkeypatch, error)
    assert main(bench_command(tiny_dataset, tmp_path)[3:]) == 2
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    assert "is on a file system without locks" in line
    assert str(tmp_path) in line
    assert not list(tmp_path.rglob("*.json"))
    with pytest.raises(InputError, match="without locks"):
        try_lock(tmp_path, "run")


def test_a_folder_that_takes_no_lock_file_is_named(tmp_path):
    (tmp_path / "locks").write_text("")
    with pytest.raises(InputError, match=r"locks.*cannot be locked \(File exists\)"):
        check_locks(tmp_path)
