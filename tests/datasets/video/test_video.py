from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from bench.io.errors import InputError
from datasets.video import decord_reader
from datasets.video.frames import probe, read_frames

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
FRAMES = 150
BITS = 8


def numbered(index: int, size: int = 64) -> NDArray[np.uint8]:
    """A picture that spells its number: column k is bright where bit k is set."""
    columns = np.array([(index >> bit) & 1 for bit in range(BITS)], dtype=np.uint8) * 180 + 40
    return np.broadcast_to(np.repeat(columns, size // BITS)[None, :, None], (size, size, 3)).copy()


def spelled(picture: NDArray[np.uint8]) -> int:
    """The number that a picture spells."""
    width = picture.shape[1]
    columns = picture.mean(axis=(0, 2)).reshape(BITS, width // BITS).mean(axis=1)
    return sum(1 << bit for bit in range(BITS) if columns[bit] > 130)


def write(path: Path, frames: int = FRAMES, codec: str = "libx264", size: int = 64, **movie: str) -> Path:
    options = {"bf": "3", "g": "40", "threads": "1"} if codec == "libx264" else {}
    with av.open(str(path), "w", options=movie) as container:
        stream: Any = container.add_stream(codec, rate=10, options=options)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(index, size), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def numbered_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("videos") / "numbered.mp4")


def middles(indices: list[int]) -> list[float]:
    return [(index + 0.5) / 10 for index in indices]


def has_b_frames(path: Path) -> bool:
    with av.open(str(path)) as container:
        return any(frame.pict_type == av.video.frame.PictureType.B for frame in container.decode(video=0))


def test_the_facts_of_a_file(numbered_video: Path) -> None:
    info = probe(numbered_video)
    assert (info.frames, info.width, info.height) == (FRAMES, 64, 64)
    assert info.frames_per_second == pytest.approx(10)
    assert info.duration == pytest.approx(15)
    assert info.reader.startswith("decord ")


def test_a_frame_read_by_time_is_the_frame_of_sequential_decoding(numbered_video: Path) -> None:
    assert has_b_frames(numbered_video)
    with av.open(str(numbered_video)) as container:
        sequential = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    indices = [0, 1, 2, 39, 40, 41, 77, 100, 149]
    frames = read_frames(numbered_video, middles(indices))
    assert [spelled(frame) for frame in frames] == indices
    # The two libraries round colours differently, by a few grey levels.
    assert np.abs(frames.astype(int) - sequential[indices].astype(int)).max() <= 6


def test_every_frame_in_order_and_across_chunks(numbered_video: Path) -> None:
    frames = read_frames(numbered_video, middles(list(range(FRAMES))))
    assert [spelled(frame) for frame in frames] == list(range(FRAMES))


@pytest.mark.parametrize("suffix", ["mkv", "mov", "avi", "webm"])
def test_other_containers_show_the_same_frames(tmp_path: Path, suffix: str) -> None:
    codec = "libvpx" if suffix == "webm" else "libx264"
    path = write(tmp_path / f"numbered.{suffix}", codec=codec)
    indices = [5, 33, 37, 81, 120, 149]
    assert [spelled(frame) for frame in read_frames(path, middles(indices))] == indices
    assert probe(path).duration == pytest.approx(15)


def test_times_repeat_go_back_and_are_clamped(numbered_video: Path) -> None:
    frames = read_frames(numbered_video, [9.05, 3.0, 3.099, 9.05, -4.0, 1000.0, 2.9])
    assert [spelled(frame) for frame in frames] == [90, 30, 30, 90, 0, FRAMES - 1, 29]


def test_no_times_no_frames(numbered_video: Path) -> None:
    assert read_frames(numbered_video, []).shape == (0, 64, 64, 3)
    assert read_frames(numbered_video, [], size=32).shape == (0, 32, 32, 3)


@pytest.mark.parametrize("size", [16, 24, 32, 40, 48, 56, 64, 80])
def test_any_size_is_read_right(numbered_video: Path, size: int) -> None:
    indices = [3, 90, 149]
    frames = read_frames(numbered_video, middles(indices), size=size)
    assert frames.shape == (3, size, size, 3)
    assert [spelled(frame) for frame in frames] == indices


def test_resizing_is_antialiased(tmp_path: Path) -> None:
    path = tmp_path / "board.mp4"
    board = np.kron(np.indices((32, 32)).sum(0) % 2, np.ones((2, 2)))[..., None] * np.array([200, 200, 200])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(board.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode())
    assert read_frames(path, [0.05], size=8).std() < 10


def test_chunks_bound_the_memory(numbered_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decord_reader, "CHUNK_BYTES", 3 * 64 * 64 * 3)
    indices = list(range(0, 20, 2))
    assert [spelled(frame) for frame in read_frames(numbered_video, middles(indices), size=16)] == indices


@pytest.mark.parametrize(("times", "size"), [([[1.0]], 8), ([float("nan")], 8), ([1.0], 0)])
def test_wrong_arguments_are_refused(numbered_video: Path, times: list[float], size: int) -> None:
    with pytest.raises(ValueError, match="is needed"):
        read_frames(numbered_video, times, size=size)


def broken_files(folder: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    whole = write(folder / "whole.mp4").read_bytes()
    front = write(folder / "front.mp4", movflags="faststart").read_bytes()
    sound = folder / "audio_only.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for step in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * step
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    contents = {
        "empty.mp4": b"",
        "text.mp4": b"not a video\n" * 500,
        "noise.mp4": rng.bytes(20_000),
        "header_cut.mp4": front[:200],
        "index_lost.mp4": whole[: len(whole) // 2],
        "half.mp4": front[: (len(front) * 2) // 3],
    }
    paths = {"none.mp4": folder / "none.mp4", "folder": folder, "audio_only.mp4": sound}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        paths[name] = folder / name
    return paths


def test_broken_files_are_refused_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, path in broken_files(tmp_path).items():
        for read in (probe, lambda file: read_frames(file, [0.0, 9.0], size=16)):
            with pytest.raises(InputError) as caught:
                read(path)
            assert str(caught.value).startswith(f"{path}: "), name
            assert "\n" not in str(caught.value)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


@needs_shared
@pytest.mark.parametrize("name", ["mmaction2_demo.mp4", "mmaction2_test.avi", "mmaction2_test.mp4"])
def test_real_files_match_sequential_decoding(name: str) -> None:
    path = SHARED / "videos" / name
    info = probe(path)
    with av.open(str(path)) as container:
        sequential = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert abs(info.frames - len(sequential)) <= 1
    assert sequential.shape[1:3] == (info.height, info.width)
    indices = [0, 17, 60, info.frames - 2]
    times = [(index + 0.5) / info.frames_per_second for index in indices]
    frames = read_frames(path, times).astype(int)
    for index, frame in zip(indices, frames, strict=True):
        # Neighbouring frames are alike: the right one must also be the nearest one.
        near = range(max(0, index - 2), min(len(sequential), index + 3))
        distance = {other: np.abs(frame - sequential[other].astype(int)).mean() for other in near}
        assert min(distance.values()) == distance[index] < 3
