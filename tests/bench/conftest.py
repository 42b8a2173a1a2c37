"""A data set of six tiny real video files, and a way to run the bench on it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
CLASSES = ("left", "right")


def encode(path, frames, rate=10):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"threads": "1", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """A folder with annotations.json and videos/: bars that move left or right now and then."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "videos").mkdir()
    database = {}
    rng = np.random.default_rng(3)
    for number in range(6):
        name = f"clip_{number}"
        frames = rng.integers(90, 110, (100, 32, 32, 3), dtype=np.uint8)
        annotations = []
        for label, start, end in ((CLASSES[number % 2], 1.0, 4.0), (CLASSES[(number + 1) % 2], 5.5, 9.0)):
            for index in range(int(start * 10), int(end * 10)):
                column = (index * 2 if label == "right" else -index * 2) % 28
                frames[index, :, column : column + 4] = 230
            annotations.append({"segment": [start, end], "label": label})
        encode(folder / "videos" / f"{name}.mp4", frames)
        subset = "training" if number < 4 else "testing"
        database[name] = {"subset": subset, "duration": 10.0, "annotations": annotations}
    content = {"version": "tiny-1", "taxonomy": [], "database": database}
    (folder / "annotations.json").write_text(json.dumps(content))
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
    points = [f"faulty-{name} = faulty_strategies:{name.capitalize()}" for name in (*FAULTS, "small")]
    (metadata / "entry_points.txt").write_text("\n".join(["[talbench.strategies]", *points, ""]))
    return folder


TINY = (
    "steps=4",
    "window_clips=4",
    "head.embd_dim=16",
    "head.head_dim=16",
    "head.fpn_dim=16",
    "head.n_head=2",
    "head.levels=3",
    "head.n_mha_win_size=5",
)


def bench_command(dataset, results, *options, strategies="head-only"):
    """Return the command line of a bench of a few steps."""
    return [
        sys.executable,
        "-m",
        "bench.run",
        "--dataset",
        str(dataset / "annotations.json"),
        "--data",
        str(dataset / "videos"),
        "--results",
        str(results),
        "--cache",
        str(dataset / "cache"),
        "--strategies",
        strategies,
        "--device",
        "cpu",
        "--weights",
        "random",
        *(word for change in TINY for word in ("--protocol", change)),
        *options,
    ]


def run_bench(dataset, results, *options, strategies="head-only", plugin=None, timeout=240):
    """Run the bench in a process of its own and return it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if plugin:
        environment["PYTHONPATH"] = str(plugin)
    command = bench_command(dataset, results, *options, strategies=strategies)
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=timeout)


def records_of(results):
    """Return the records by strategy name."""
    found = [json.loads(path.read_text()) for path in sorted((Path(results) / "records").glob("*.json"))]
    return {record["strategy"]["name"]: record for record in found}
