"""A full disk, a read-only one, data that are gone, a clock that goes back: one line, nothing lost."""

import contextlib
import gzip
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from conftest import run_here
from tiny import ROOT, bench_command, records_of

MIB = 2**20


def mount(folder, *options):
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()[:80]}")


@pytest.fixture
def disk(tmp_path):
    """A function that makes a folder a disk of its own, of so many MiB."""
    made = []

    def of(mib):
        folder = tmp_path / f"disk{len(made)}"
        folder.mkdir()
        mount(folder, "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs")
        made.append(folder)
        return folder

    yield of
    for folder in made:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def data(tiny_dataset):
    return tiny_dataset


STEPS = ("--protocol", "steps=50", "--checkpoint-seconds", "0.5", "--workers", "1")


def command(data, results, *options):
    return bench_command(data, results, *STEPS, *options, strategies="full-finetune")


def begin(data, results, *options):
    return subprocess.Popen(
        command(data, results, *options),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    said = process.communicate(timeout=300)[1]
    assert "Traceback" not in said
    return process.returncode, said.strip().splitlines()


def wait_for_checkpoint(process, results):
    while process.poll() is None and not list((results / "unfinished").glob("*.pt")):
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()[1]


def fill(folder):
    """Write until nothing fits; return what was written."""
    path = folder / "filling"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return path


def outcome(results):
    record = records_of(results)["full-finetune"]
    detections = results / "detections" / f"{record['id']}.json.gz"
    return record["status"], record["metrics"], record["training"], gzip.decompress(detections.read_bytes())


@pytest.fixture(scope="module")
def unbroken(tiny_dataset, made_once):
    def make(results):
        process = run_here(tiny_dataset, results, *STEPS, strategies="full-finetune")
        assert process.returncode == 0, process.stderr

    return outcome(made_once("unbroken", make))


def test_a_disk_that_is_too_small_is_refused_at_once(data, disk):
    results = disk(8)
    code, said = finish(begin(data, results))
    assert (code, len(said)) == (2, 1)
    assert said[0].endswith("MiB free, 64 are needed")


@pytest.mark.slow
def test_a_disk_that_fills_up_costs_nothing_that_was_finished(data, disk, unbroken):
    results = disk(80)
    process = begin(data, results)
    wait_for_checkpoint(process, results)
    filling = fill(results)
    code, said = finish(process)
    assert code in (1, 2)
    assert "No space left on device" in "\n".join(said)
    filling.unlink()
    code, said = finish(begin(data, results, "--redo", "failed"))
    assert code == 0, said
    assert outcome(results) == unbroken


@pytest.mark.slow
def test_results_on_a_read_only_disk_are_one_line(data, disk, unbroken):
    results = disk(80)
    process = begin(data, results)
    wait_for_checkpoint(process, results)
    process.kill()
    process.communicate()
    # The processes of a killed bench end by themselves; until then the disk has writers.
    for _ in range(600):
        if not subprocess.run(["mount", "-o", "remount,ro", str(results)], capture_output=True).returncode:
            break
        time.sleep(0.1)
    code, said = finish(begin(data, results))
    assert (code, len(said)) == (2, 1)
    assert "Read-only file system" in said[0]
    mount(results, "-o", "remount,rw")
    code, said = finish(begin(data, results))
    assert code == 0, said
    assert "resumed after step" in "\n".join(said)
    assert outcome(results) == unbroken


@pytest.mark.slow
def test_data_that_are_moved_away_leave_a_row_and_can_come_back(data, tmp_path, unbroken):
    moved = tmp_path / "data"
    shutil.copytree(data, moved, ignore=shutil.ignore_patterns("cache"))
    results = tmp_path / "results"
    process = begin(moved, results, "--frame-cache", "0")
    wait_for_checkpoint(process, results)
    (moved / "videos").rename(moved / "elsewhere")
    code, said = finish(process)
    assert code == 1, said
    record = records_of(results)["full-finetune"]
    assert record["status"] == "error"
    assert "videos/clip_" in record["message"]
    code, said = finish(begin(moved, results, "--redo", "failed"))
    assert (code, len(said)) == (2, 1)
    assert records_of(results)["full-finetune"] == record
    (moved / "elsewhere").rename(moved / "videos")
    code, said = finish(begin(moved, results, "--frame-cache", "0", "--redo", "failed"))
    assert code == 0, said
    assert "resumed after step" in "\n".join(said)
    assert outcome(results) == unbroken


EARLIER = """
import time
real, began = time.time, time.time()
time.time = lambda: began - 365 * 86400 - 5 * (real() - began)
"""
"""What every process of a bench begins with: its clock is a year behind, and runs backwards."""


@pytest.mark.slow
def test_a_clock_that_goes_back_changes_nothing(data, tmp_path, unbroken, monkeypatch):
    results = tmp_path / "results"
    process = begin(data, results)
    wait_for_checkpoint(process, results)
    process.terminate()
    assert finish(process)[0] == 130
    (tmp_path / "sitecustomize.py").write_text(EARLIER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    asked = [sys.executable, "-c", "import time; print(time.time())"]
    clock = float(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    assert time.time() - clock > 300 * 86400
    code, said = finish(begin(data, results))
    assert code == 0, said
    assert "resumed after step" in "\n".join(said)
    assert outcome(results) == unbroken
    record = records_of(results)["full-finetune"]
    assert record["cost"]["wall_seconds"] > 0
    assert json.loads(json.dumps(record, allow_nan=False)) == record
