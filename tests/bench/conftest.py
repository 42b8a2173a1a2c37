"""A data set of six tiny real video files, a way to run the bench on it, and strategies that fail."""

import os
import subprocess

import pytest
from tiny import CLASSES, ROOT, TINY, bench_command, encode, make_dataset, records_of

__all__ = ["CLASSES", "FAULTS", "ROOT", "TINY", "bench_command", "encode", "records_of", "run_bench"]


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """A folder with annotations.json and videos/."""
    folder = tmp_path_factory.mktemp("tiny")
    make_dataset(folder)
    return folder


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
        environment["PYTHONPATH"] = str(plugin)
    command = bench_command(dataset, results, *options, strategies=strategies)
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=timeout)
