"""The picture at a time is the picture of that time, in every encoding and for every reader."""

from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from encodings_of_video import ENCODINGS, FRAMES, RATE, Encoding, number_of
from numpy.typing import NDArray

from bench.io.errors import InputError
from datasets.video import decord_reader, torchcodec_reader
from datasets.video.decord_reader import decord_installed
from datasets.video.frames import probe, read_frames, reader_of
from datasets.video.index import inspect
from datasets.video.reader_choice import READER_VARIABLE, Reader, check, fast_readers
from datasets.video.torchcodec_reader import torchcodec_installed

DECORD = {
    *("h264 mp4", "h264 mp4 short gop", "h264 mp4 gop of 3", "h264 mp4 only key frames"),
    *("h264 mp4 no b-frames", "h264 mkv", "h264 fragments", "h264 short fragments", "h264 mov"),
    *(
        "h264 mp4 variable rate",
        "h264 mkv variable rate",
        "h264 mkv with pauses",
        "h264 mp4 with pauses",
        "h265 mp4",
    ),
    *("h265 mkv closed gop", "h265 mp4 closed gop", "h265 intra refresh", "mpeg4 mkv", "mpeg4 avi"),
    *("mpeg2 closed gop", "vp8 webm", "vp8 hidden frames", "vp9 webm", "vp9 hidden frames", "mjpeg avi"),
    *("prores mov", "ffv1 mkv"),
}
"""The encodings that decord serves; it reads all of them right."""
WRONG = {
    *("h264 mp4 open gop", "h264 mkv open gop", "h264 mkv blu-ray", "h264 mp4 intra refresh"),
    *("h264 mkv intra refresh", "h264 fragments open gop", "h265 mkv", "h265 mp4 open gop"),
    *("h265 fragments open gop", "mpeg4 mp4 b-frames", "mpeg4 mkv b-frames", "mpeg2 mkv b-frames"),
    *("mpeg2 mp4 b-frames", "h264 ts", "h265 ts", "mpeg2 ts", "mpeg2 program stream", "wmv asf", "mpeg1 mpg"),
}
"""The encodings with presentation times in which bare decord gives wrong pictures after a seek."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder, made = tmp_path_factory.mktemp("encodings"), dict[str, Path]()

    def file(name: str) -> Path:
        if name not in made:
            try:
                made[name] = ENCODINGS[name].write(folder / name.replace(" ", "-"))
            except (ValueError, av.error.EncoderNotFoundError):
                pytest.skip(f"this PyAV has no encoder {ENCODINGS[name].codec}")
        return made[name]

    return file


def requests(encoding: Encoding) -> Iterator[NDArray[np.float64]]:
    """Vectors of times to be read at once: at five rates, then at random, forward and backward."""
    end = float(encoding.starts[-1]) + 1 / RATE
    for rate in (25, 12.5, 10, 5, 1):
        yield (np.arange(int(end * rate)) + 0.5) / rate
    rng = np.random.default_rng(0)
    yield from np.sort(rng.uniform(0, end, (3, 8)))
    yield from rng.uniform(0, end, (25, 1))
    yield from np.arange(end - 0.01, 0, -0.37)[:, None]


def wrong_frames(path: Path, encoding: Encoding) -> list[tuple[float, int, int]]:
    """Time, expected and read number of every wrong picture."""
    found = []
    for times in requests(encoding):
        expected = np.searchsorted(encoding.starts, times + 4e-5, side="right") - 1
        got = [number_of(frame) for frame in read_frames(path, times)]
        found += [each for each in zip(times, expected, got, strict=True) if each[1] != each[2]]
    return found


SLOWLY = [pytest.param(each, marks=pytest.mark.slow) for each in ("pyav", "decord", "torchcodec")]


@pytest.mark.parametrize("reader", ["auto", *SLOWLY])
@pytest.mark.parametrize("name", ENCODINGS)
def test_no_wrong_picture(
    files: Callable[[str], Path], name: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files(name)
    if reader == "torchcodec" and not torchcodec_installed():
        pytest.skip("there is no torchcodec, or no FFmpeg for it")
    if reader == "decord" and not decord_installed():
        pytest.skip("there is no decord for this machine")
    monkeypatch.setenv(READER_VARIABLE, reader)
    if reader == "decord" and name not in DECORD:
        # A reader that the user insists on is refused where it would be wrong.
        with pytest.raises(InputError, match=r"--reader decord: .*; --reader auto reads it"):
            reader_of(path)
        return
    if reader == "torchcodec" and torchcodec_reader.seeks_wrongly(inspect(path)):
        with pytest.raises(InputError, match=r"--reader torchcodec: .*; --reader auto reads it"):
            read_frames(path, [0.0])
        return
    used = reader_of(path)
    if decord_installed():
        assert used.startswith("decord") == (name in DECORD and reader in ("auto", "decord"))
    assert probe(path).frames == FRAMES
    assert wrong_frames(path, ENCODINGS[name]) == []


@pytest.mark.skipif(not decord_installed(), reason="there is no decord for this machine")
@pytest.mark.parametrize("name", sorted(WRONG))
def test_decord_is_refused_twice_where_it_is_wrong(files: Callable[[str], Path], name: str) -> None:
    """The index alone gives the reason, and so do a few sought frames alone."""
    path = files(name)
    [reader] = fast_readers("decord")
    assert reader.seeks_wrongly(inspect(path))
    assert check(path, inspect(path), reader)


def test_readers_that_are_wrong_are_found(files: Callable[[str], Path]) -> None:
    """A reader that is one frame late, after a seek only or always, or gives another size, is refused."""
    path = files("h264 mp4 short gop")
    index = inspect(path)

    def late(by: int, after: int) -> Reader:
        def frames(
            path: Path, index: object, needed: NDArray[np.int64], threads: int
        ) -> Iterator[NDArray[np.uint8]]:
            shift = by if needed[0] % 12 >= after else 0
            yield read_frames(path, (np.minimum(needed + shift, FRAMES - 1) + 0.5) / RATE)

        return Reader(f"late by {by}", lambda index: None, frames, RuntimeError)

    assert check(path, index, late(0, 0)) is None
    for by, after in ((1, 0), (-1, 1), (2, 6), (40, 1)):
        assert "another picture" in str(check(path, index, late(by, after)))
    small = Reader(
        "small", lambda index: None, lambda *_: iter([np.zeros((1, 8, 8, 3), np.uint8)]), RuntimeError
    )
    assert "another size" in str(check(path, index, small))


def test_a_reader_that_drifts_late_in_a_group_is_found(files: Callable[[str], Path]) -> None:
    """Of this file's groups of 48 frames, the others that are compared are among the first 32."""
    path = files("h264 mkv")
    index = inspect(path)

    def frames(
        path: Path, index: object, needed: NDArray[np.int64], threads: int
    ) -> Iterator[NDArray[np.uint8]]:
        drift = int(needed[0] % 48 >= 40)
        yield read_frames(path, (np.minimum(needed + drift, FRAMES - 1) + 0.5) / RATE)

    assert "another picture" in str(
        check(path, index, Reader("drifts", lambda _: None, frames, RuntimeError))
    )


def test_the_index_tells_open_from_closed_groups(files: Callable[[str], Path]) -> None:
    for name in (
        "h264 mp4",
        "h265 mkv closed gop",
        "mpeg2 closed gop",
        "mpeg4 mkv",
        "vp9 webm",
        "h264 fragments",
    ):
        times = inspect(files(name)).timeline
        assert times is not None
        assert times.closed, name
    for name in ("h264 mkv open gop", "h265 mkv", "mpeg4 mkv b-frames", "mpeg2 mkv b-frames"):
        times = inspect(files(name)).timeline
        assert times is not None
        assert not times.closed, name
    for name in ("h264 mp4 intra refresh", "h264 mkv intra refresh"):
        times = inspect(files(name)).timeline
        assert times is not None
        assert not times.instant, name


def test_the_check_is_kept(
    files: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets.video import reader_choice

    if not decord_installed():
        pytest.skip("there is no decord for this machine")
    path, index = files("h264 mp4"), inspect(files("h264 mp4"))
    checks = []
    monkeypatch.setattr(reader_choice, "check", lambda *_: checks.append(1) or "no")
    monkeypatch.setattr(torchcodec_reader, "torchcodec_installed", lambda: False)

    def choose() -> tuple[object, str]:
        reader_choice._check_once.cache_clear()
        return reader_choice.choose(path, index, "auto", tmp_path / "cache")

    assert choose() == choose() == (None, f"decord {decord_reader.decord_version()}: no")
    assert len(checks) == 1
    [kept] = (tmp_path / "cache").iterdir()
    for content in (b"", b"{", b"[1]", b'{"problem": 3}', b"\xff"):
        kept.write_bytes(content)
        assert choose()[0] is None
    assert len(checks) == 6
    reader_choice._check_once.cache_clear()
