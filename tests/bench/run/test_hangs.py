"""Runs that hang become rows that say where, and nothing of them stays behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, records_of, run_bench

from bench.io.writing import process_runs
from bench.records.progress import Progress
from bench.run.__main__ import main
from bench.run.worker import supervisor as run_process
from bench.run.worker.supervisor import Limits, enforce_limits, kill_tree

PLUGIN = r"""
import dataclasses, subprocess, sys, time
from pathlib import Path
from typing import ClassVar
from strategies.base import Rule, Stage

SLEEPER = "import time\nfor line in __import__('sys').stdin:\n    time.sleep(600)\n"

@dataclasses.dataclass(frozen=True)
class Decoder:
    '''Has a decord whose process sleeps, and no alarm.'''

    name: ClassVar[str] = "stuck-decoder"

    def adapt(self, backbone):
        from datasets.video import decord_reader, reader_choice
        decord_reader.stop_workers()
        decord_reader.WORKER = (sys.executable, "-c", SLEEPER)
        decord_reader.START_SECONDS = decord_reader.SECONDS_PER_FRAME = 0.0
        decord_reader.SECONDS = decord_reader.GRACE_SECONDS = 1.0
        reader_choice.check = lambda *_: None
        return backbone

    def stages(self):
        return (Stage("head", (Rule(r"head\..*"),)),)

class Reader(Decoder):
    '''Has a PyAV that sleeps in this process, and a child that nobody waits for.'''

    name: ClassVar[str] = "stuck-reader"

    def adapt(self, backbone):
        from datasets.video import frames as video
        video.choose = lambda *_: (None, "")
        video.pyav_frames = self.sleep
        return backbone

    def sleep(self, path, *others):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (Path(path).parent / "child").write_text(str(child.pid))
        time.sleep(600)
        yield
"""


@pytest.fixture
def plugin(tmp_path):
    folder = tmp_path / "plugin"
    metadata = folder / "stuck_strategies-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / "stuck_strategies.py").write_text(PLUGIN)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: stuck-strategies\nVersion: 1.0\n")
    points = [f"stuck-{name} = stuck_strategies:{name.capitalize()}" for name in ("decoder", "reader")]
    (metadata / "entry_points.txt").write_text("\n".join(["[talbench.strategies]", *points, ""]))
    return folder


def lives(process):
    """Say whether a process runs; one that has ended and was not asked after counts as gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(process, seconds=10):
    until = time.monotonic() + seconds
    while lives(process) and time.monotonic() < until:
        time.sleep(0.05)
    return not lives(process)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_stuck_readers_are_timeout_rows_that_name_video_and_frames(tiny_dataset, plugin, tmp_path):
    data, names = tmp_path / "data", "stuck-decoder,stuck-reader,head-only"
    shutil.copytree(tiny_dataset, data, ignore=shutil.ignore_patterns("cache"))
    process = run_bench(data, tmp_path / "r", "--stall", "40", strategies=names, plugin=plugin)
    assert process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr
    records = records_of(tmp_path / "r")
    assert {name: each["status"] for name, each in records.items()} == {
        "stuck-decoder": "timeout",
        "stuck-reader": "timeout",
        "head-only": "ok",
    }
    first = data / "videos" / "clip_0.mp4"
    for name in ("stuck-decoder", "stuck-reader"):
        [facts] = records[name]["failure"]["decoding"]
        assert facts["video"] == str(first)
        assert facts["first_frame"] == 0
        assert 0 < facts["last_frame"] < 100
        assert facts["seconds"] >= 1
        assert f"frames 0 to {facts['last_frame']}" in records[name]["message"]
        assert str(first) in records[name]["message"]
        assert records[name]["phase"] == "load"
        assert f"{name}: seed 0: timeout" in process.stdout
    assert "no progress for 40 s in phase load (0 of 1 done); reading" in records["stuck-reader"]["message"]
    child = first.with_name("child")
    assert gone(int(child.read_text()))
    child.unlink()


def test_a_killed_run_takes_all_that_it_started_with_it(tmp_path):
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "child = subprocess.Popen(sleep, start_new_session=float(sys.argv[1]) > 0)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(float(sys.argv[1]))\n"
    )
    for lasts in ("600", "0"):  # killed, or ended by itself
        process = subprocess.Popen(
            [sys.executable, "-c", code, lasts], stdout=subprocess.PIPE, start_new_session=True
        )
        child = int(process.stdout.readline())
        if lasts == "600":
            os.kill(child, signal.SIGSTOP)
        assert process_runs(child)
        kill_tree(process, 0.0 if lasts == "600" else 60.0)
        assert process.returncode == (-signal.SIGKILL if lasts == "600" else 0)
        assert gone(child)
        process.stdout.close()


def test_a_run_that_watches_its_parent_ends_in_order_while_that_lives():
    code = "from bench.run.worker.watchdog import watch_parent; watch_parent(); import time; time.sleep(0.5)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.wait(60)  # its standard input stays open
    assert (process.returncode, process.stderr.read()) == (0, b"")
    process.stdin.close()
    process.stderr.close()


def running(monkeypatch, **fields):
    ended = []
    monkeypatch.setattr(run_process, "kill_tree", ended.append)
    now = time.monotonic()
    told = Progress("run", "vit-t", "losa", 0, "{}", "digest", "adapters", 7, 40, 0.0, 0.0, 0, 0.0)
    values = {"started": now, "last_message_at": now, "progress": told, "phase": told.phase, "result": None}
    return SimpleNamespace(**{**values, "decoding": {}, "process": "process", **fields}), ended


def test_no_progress_is_told_from_slow_progress(monkeypatch):
    now = time.monotonic()
    each, ended = running(monkeypatch, started=now - 1000, last_message_at=now - 20)
    enforce_limits([each], Limits(None, 30.0))
    assert (each.result, ended) == (None, [])
    each.last_message_at = now - 31
    each.decoding = {0: [], 1: [{"video": "a.mp4", "first_frame": 3, "last_frame": 9, "seconds": 2.0}]}
    enforce_limits([each], Limits(None, 30.0))
    assert ended == ["process"]
    assert each.result["status"] == "timeout"
    assert each.result["message"] == (
        "no progress for 30 s in phase adapters (7 of 40 done); reading a.mp4, frames 3 to 9, for 33 s"
    )
    assert (each.result["failure"]["done"], each.result["failure"]["total"]) == (7, 40)
    enforce_limits([each], Limits(None, 30.0))
    assert ended == ["process"]


def test_a_process_that_has_told_its_result_and_stays_is_ended(monkeypatch):
    result = {"record": {}}
    each, ended = running(monkeypatch, result=result, last_message_at=time.monotonic() - 61)
    enforce_limits([each], Limits())
    assert ended == ["process"]
    assert each.result is result


@pytest.mark.parametrize("value", ["0", "-1", "nan"])
def test_a_wrong_limit_is_one_line(value, tmp_path, capsys):
    assert main(["--stall", value, "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert f"--stall: got {value}, allowed is more than 0" in error
