"""A data set of six tiny real video files, a way to run the bench on it, and strategies that fail."""

import contextlib
import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from tiny import CLASSES, ROOT, TINY, bench_command, encode, make_dataset, records_of

__all__ = [
    "CLASSES",
    "FAULTS",
    "FOUR",
    "ROOT",
    "TINY",
    "bench_command",
    "encode",
    "records_of",
    "run_bench",
    "run_here",
]


@pytest.fixture(scope="session")
def tiny_dataset(made_once):
    """A folder with annotations.json and videos/."""
    return made_once("tiny", make_dataset)


@pytest.fixture(scope="session")
def bench_once(made_once):
    """Return a function that gives the results and the ended process of a bench, run once a test run.

    They are everybody's: a test that changes them works on a copy.
    """

    def once(name, dataset, *options, **more):
        def make(folder):
            process = run_bench(dataset, folder / "results", *options, **more)
            said = {"returncode": process.returncode, "stdout": process.stdout, "stderr": process.stderr}
            (folder / "said.json").write_text(json.dumps(said))

        folder = made_once(name, make)
        said = json.loads((folder / "said.json").read_text())
        return folder / "results", subprocess.CompletedProcess(name, **said)

    return once


@pytest.fixture(scope="session")
def tiny_bench(tiny_dataset, bench_once):
    """The results and the process of the bench of four strategies that serves the tests of all verbs."""
    results, process = bench_once("tiny-bench", tiny_dataset, strategies=FOUR)
    assert process.returncode == 0, process.stderr
    return results, process


PLUGIN = r"""
import dataclasses, os, signal, time
from typing import ClassVar
from strategies.base import Rule, Stage

@dataclasses.dataclass(frozen=True)
class Faulty:
    name: ClassVar[str] = "faulty"
    lr: ClassVar[float] = 1.0

    def adapt(self, backbone):
        self.fail()
        return backbone

    def fail(self):
        pass

    def stages(self):
        return (Stage("head", (Rule(r"head\..*", self.lr),)),)

class Kill(Faulty):
    name: ClassVar[str] = "faulty-kill"
    def fail(self):
        os.kill(os.getpid(), signal.SIGKILL)

class Memory(Faulty):
    name: ClassVar[str] = "faulty-memory"
    def fail(self):
        raise MemoryError("no more")

class Error(Faulty):
    name: ClassVar[str] = "faulty-error"
    def fail(self):
        raise RuntimeError("broken adapter")

class Nan(Faulty):
    name: ClassVar[str] = "faulty-nan"
    lr: ClassVar[float] = 1e30

class Small(Faulty):
    name: ClassVar[str] = "faulty-small"
    def fail(self):
        import torch
        torch.cuda.set_per_process_memory_fraction(1e-5)

class Hungry(Faulty):
    name: ClassVar[str] = "faulty-hungry"
    def fail(self):
        bytearray(b"x") * 2**32

class Sleep(Faulty):
    name: ClassVar[str] = "faulty-sleep"
    def fail(self):
        time.sleep(600)
"""
FOUR = "head-only,lofi,full-finetune,losa"
FAULTS = ("kill", "memory", "error", "nan", "sleep")


@pytest.fixture(scope="session")
def plugin(tmp_path_factory):
    """A stranger's package on the path: strategies that fail, each in its own way."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "faulty_strategies.py").write_text(PLUGIN)
    metadata = folder / "faulty_strategies-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-strategies\nVersion: 1.0\n")
    points = [
        f"faulty-{name} = faulty_strategies:{name.capitalize()}" for name in (*FAULTS, "small", "hungry")
    ]
    (metadata / "entry_points.txt").write_text("\n".join(["[talbench.strategies]", *points, ""]))
    return folder


def run_bench(dataset, results, *options, strategies="head-only", plugin=None, timeout=240):
    """Run the bench in a process of its own and return it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if plugin:
        environment["PYTHONPATH"] = os.pathsep.join([str(plugin), os.environ.get("PYTHONPATH", "")])
    command = bench_command(dataset, results, *options, strategies=strategies)
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=timeout)


def run_here(dataset, results, *options, strategies="head-only", report=False):
    """Run the bench as ``run_bench`` does, but all of it in this process; for runs that go well.

    Saves the start of a process for the bench and of one for each run, seconds each, where what matters is
    what a run records; and without ``report`` the seconds in which its figures are drawn.
    """
    words = bench_command(dataset, results, *options, strategies=strategies)[3:]
    output, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bench.run.scheduler.run_matrix", run_all_here)
        if not report:
            patched.setattr("bench.report.build", lambda results: SimpleNamespace(text=""))
        from bench.run.__main__ import main

        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            code = main(words)
    return subprocess.CompletedProcess(words, code, output.getvalue(), errors.getvalue())


def run_all_here(runs, records, *_):
    """Stand for ``bench.run.scheduler.run_matrix``: make the runs one after the other in this process."""
    from bench.records.record import write_record
    from bench.run.worker.__main__ import do_run

    def ignore(*_):
        pass

    def say(lines):
        print(*lines, sep="\n", file=sys.stderr)

    for run in runs:
        write_record(records, do_run(run.spec, ignore, say, ignore))
