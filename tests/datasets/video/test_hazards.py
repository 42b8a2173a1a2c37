"""Files as they are found in the wild: both readers show the frames of sequential decoding, or say no."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from movies import damage, spelled, write
from numpy.typing import NDArray

from bench.io.errors import InputError
from bench.records.environment import describe
from datasets.video import decord_reader, reader_choice, readers_used
from datasets.video import frames as video
from datasets.video.decord_reader import DecordError, decord_frames, decord_installed
from datasets.video.frames import probe, read_frames
from datasets.video.index import inspect
from datasets.video.reader_choice import READER_VARIABLE

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
needs_decord = pytest.mark.skipif(not decord_installed(), reason="there is no decord for this machine")
UNEVEN = np.cumsum(np.random.default_rng(0).integers(20, 300, 60)).tolist()
HAZARDS: dict[str, Callable[[Path], Path]] = {
    "b-frames": lambda folder: write(folder / "b.mp4"),
    "one key frame": lambda folder: write(folder / "k.mp4", key_frames=1000),
    "variable rate mp4": lambda folder: write(folder / "v.mp4", milliseconds=UNEVEN),
    "variable rate mkv": lambda folder: write(folder / "v.mkv", milliseconds=UNEVEN),
    "late start mp4": lambda folder: write(folder / "l.mp4", milliseconds=range(1500, 7500, 100)),
    "late start mkv": lambda folder: write(folder / "l.mkv", milliseconds=range(1500, 7500, 100)),
    "transport stream": lambda folder: write(folder / "t.ts"),
    "avi with b-frames": lambda folder: write(folder / "a.avi"),
    "odd size h264": lambda folder: write(folder / "o.mp4", size=(65, 49), pixels="yuv444p"),
    "odd size mpeg4": lambda folder: write(folder / "m.mp4", codec="mpeg4", size=(65, 49)),
    "odd size mjpeg": lambda folder: write(folder / "j.avi", codec="mjpeg", size=(65, 49), pixels="yuvj420p"),
    "webm": lambda folder: write(folder / "w.webm", codec="libvpx"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hazards")
    return {name: make(folder) for name, make in HAZARDS.items()}


@pytest.fixture(params=["decord", "PyAV"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "PyAV":
        monkeypatch.setenv(READER_VARIABLE, "pyav")
    elif not decord_installed():
        pytest.skip("there is no decord for this machine")
    return str(request.param)


def sequential(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("name", HAZARDS)
def test_frames_are_those_of_sequential_decoding(files: dict[str, Path], name: str, reader: str) -> None:
    path = files[name]
    index, expected = inspect(path), sequential(path)
    assert [spelled(frame) for frame in expected] == list(range(60))
    middles = (index.starts + np.append(index.starts[1:], index.duration)) / 2
    every = read_frames(path, middles)
    assert [spelled(frame) for frame in every] == list(range(60))
    # Measured: equal bit for bit where the pixels are 4:2:0; a few grey levels apart elsewhere.
    assert np.abs(every.astype(int) - expected.astype(int)).max() <= 6
    some = [59, 3, 30, 31, 3, 58]
    assert [spelled(frame) for frame in read_frames(path, middles[some])] == some
    assert read_frames(path, middles[some], size=24).shape == (6, 24, 24, 3)


def test_times_count_from_the_first_frame(files: dict[str, Path], reader: str) -> None:
    starts = np.array(UNEVEN) / 1000 - UNEVEN[0] / 1000
    for name in ("variable rate mp4", "variable rate mkv"):
        path = files[name]
        assert probe(path).variable_rate
        np.testing.assert_allclose(inspect(path).starts, starts, atol=1.1e-3)
        instants = [starts[20] + 0.002, starts[21] - 0.002, starts[21] + 0.002, starts[40] + 0.002]
        assert [spelled(frame) for frame in read_frames(path, instants)] == [20, 20, 21, 40]
    for name in ("late start mp4", "late start mkv"):
        info = probe(files[name])
        assert not info.variable_rate
        assert info.offset_seconds == pytest.approx(1.5)
        assert info.duration == pytest.approx(6.0)
        assert spelled(read_frames(files[name], [2.05])[0]) == 20


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_a_turned_video_is_shown_upright(tmp_path: Path, turn: int, reader: str) -> None:
    path = write(tmp_path / "turned.mp4", size=(64, 32), turn=turn)
    [coded] = read_frames(write(tmp_path / "plain.mp4", size=(64, 32)), [3.05])
    info, [shown] = probe(path), read_frames(path, [3.05])
    assert info.rotation == turn % 360
    assert (info.width, info.height) == ((64, 32) if turn == 180 else (32, 64)) == shown.shape[1::-1]
    assert np.abs(shown.astype(int) - np.rot90(coded, turn // 90).astype(int)).max() <= 6


@needs_decord
def test_who_reads_what(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.video._served", {})
    assert readers_used() is None
    decord = f"decord {decord_reader.decord_version()}"
    for name in ("b-frames", "odd size h264", "late start mkv"):
        assert probe(files[name]).reader == decord
        read_frames(files[name], [1.0])
    assert readers_used() == decord
    for name in ("transport stream", "avi with b-frames"):
        assert probe(files[name]).reader == video.PYAV
        assert probe(files[name]).reader_reason.startswith(f"{decord}: ")
        read_frames(files[name], [1.0])
    assert readers_used() == f"{video.PYAV} (2 files), {decord} (3 files)"
    assert describe(torch.device("cpu"))["video_reader"] == readers_used()


def stand_in(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = folder / "worker.py"
    script.write_text("import json, os, signal, sys, time\nfor line in sys.stdin:\n" + body)
    monkeypatch.setattr(decord_reader, "WORKER", (sys.executable, str(script)))
    decord_reader.stop_worker()


@pytest.mark.parametrize(
    "body",
    [
        "    os.abort()\n",
        '    print(json.dumps({"error": "no"}), flush=True)\n',
        '    print(json.dumps({"shape": [1, 64, 64, 3], "frames": 61}), flush=True)\n',
        '    print(json.dumps({"shape": [1, 64, 48, 3], "frames": 60}), flush=True)\n',
    ],
    ids=["crashes", "refuses", "counts other frames", "gives another size"],
)
def test_a_decord_that_fails_is_replaced_by_pyav(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setattr(decord_reader, "decord_installed", lambda: True)
    monkeypatch.setattr(decord_reader, "decord_version", lambda: "0")
    monkeypatch.setattr(reader_choice, "check", lambda *_: None)
    monkeypatch.setattr("datasets.video._served", {})
    monkeypatch.setattr(decord_reader, "SECONDS", 0.5)
    monkeypatch.setattr(decord_reader, "SECONDS_PER_FRAME", 0.0)
    stand_in(tmp_path, body, monkeypatch)
    path = files["b-frames"]
    with pytest.raises(DecordError):
        list(decord_frames(path, inspect(path), np.array([3])))
    assert spelled(read_frames(path, [3.05])[0]) == 30
    assert readers_used() == video.PYAV
    decord_reader.stop_worker()


def refused_or(read: Callable[[Path], Any], path: Path) -> Any:
    """What reading gives, or None where it is refused in one line that names the file."""
    try:
        return read(path)
    except InputError as error:
        lines = str(error).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{path}: ")
    return None


@pytest.mark.parametrize(("begin", "end"), [(0.55, 0.75), (0.7, 0.95), (0.3, 0.31), (0.05, 0.95)])
def test_damage_is_refused_or_harmless_but_never_endless(
    tmp_path: Path, begin: float, end: float, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decord_reader, "SECONDS", 3.0)
    monkeypatch.setattr(decord_reader, "SECONDS_PER_FRAME", 0.0)
    path = damage(write(tmp_path / "damaged.mp4", frames=200, movflags="faststart"), begin, end)
    for read in (probe, lambda file: read_frames(file, np.arange(200) / 10 + 0.05, size=16)):
        answer = refused_or(read, path)
        assert answer is None or read is probe or answer.shape == (200, 16, 16, 3)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
@pytest.mark.parametrize("name", ["mmaction2_demo.mp4", "mmaction2_test.avi", "mmaction2_test.mp4"])
def test_real_files_are_the_same_to_both_readers(name: str, reader: str) -> None:
    path = SHARED / "videos" / name
    index, expected = inspect(path), sequential(path)
    assert len(index.starts) == len(expected)
    for some in (slice(None, None, 9), slice(-3, None), slice(150, 153)):
        frames = read_frames(path, index.starts[some] + 0.5 / index.rate)
        assert np.abs(frames.astype(int) - expected[some].astype(int)).max() <= 2


@pytest.mark.parametrize("name", HAZARDS)
def test_a_part_read_alone_is_that_part_of_the_whole(files: dict[str, Path], name: str, reader: str) -> None:
    path = files[name]
    times = (np.arange(60) + 0.5) * inspect(path).duration / 60
    whole = read_frames(path, times, size=24)
    for first, last in ((48, 60), (0, 16), (31, 47), (59, 60), (16, 48)):
        assert np.array_equal(read_frames(path, times[first:last], size=24), whole[first:last])
