"""A data set of six tiny real video files, and the command line of a bench of a few steps on it."""

import json
import sys
from pathlib import Path

import av
import numpy as np

ROOT = Path(__file__).parents[2]
CLASSES = ("left", "right")
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


def encode(path, frames, rate=10):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"threads": "1", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def make_dataset(folder):
    """Make annotations.json and videos/ in ``folder``: bars that move left or right now and then."""
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


def records_of(results):
    """Return the records by strategy name."""
    found = [json.loads(path.read_text()) for path in sorted((Path(results) / "records").glob("*.json"))]
    return {record["strategy"]["name"]: record for record in found}
