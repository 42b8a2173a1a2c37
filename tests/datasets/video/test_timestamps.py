"""Times of frames where containers have faults: repaired locally, and read as players show them."""

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from encodings_of_video import ENCODINGS, RATE, Encoding, moving_picture, number_of, x264
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.io.errors import InputError
from datasets.video.container import is_idr
from datasets.video.frames import PYAV, probe, read_frames
from datasets.video.index import inspect
from datasets.video.reader_choice import READER_VARIABLE
from datasets.video.timestamps import Packet, timeline

PLAIN = Encoding("libx264", "mkv", {"bf": "0", "g": "40"})
MILLISECOND = 1e-3


def numbers(path: Path, times: Sequence[float]) -> list[int]:
    return [number_of(frame) for frame in read_frames(path, times)]


def packets(times: Sequence[int | None], keys: Sequence[int] = (0,)) -> list[Packet]:
    return [Packet(time, time, 40, place in keys, True, False) for place, time in enumerate(times)]


def remux(source: Path, target: Path, change: Any, options: dict[str, str] | None = None) -> Path:
    """Copy the packets of a file, except those for which `change(number, packet)` is false."""
    with av.open(str(source)) as read, av.open(str(target), "w", options=options or {}) as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for number, packet in enumerate(read.demux(video=0)):
            if packet.size and change(number, packet) is not False:
                packet.stream = stream
                written.mux(packet)
    return target


def mkv_with_times(path: Path, milliseconds: Sequence[int]) -> Path:
    """Numbered frames without B-frames, muxed with given times, which may repeat."""

    def change(number: int, packet: Any) -> None:
        packet.pts = packet.dts = milliseconds[number]
        packet.time_base = Fraction(1, 1000)

    plain = PLAIN.write(path.with_name("plain"), len(milliseconds))
    return remux(plain, path, change)


def test_a_time_that_is_there_twice_moves_one_frame(tmp_path: Path) -> None:
    times = [40 * index for index in range(100)]
    times[60] = times[59]
    path = mkv_with_times(tmp_path / "twice.mkv", times)
    info = probe(path)
    assert (info.frames, info.repaired_times, info.reader) == (100, 1, PYAV)
    assert info.duration == pytest.approx(4.0)
    expected = list(range(100))
    assert numbers(path, (np.arange(100) + 0.5) / RATE) == expected
    # After a seek, too, and where only one of the two is asked for.
    assert numbers(path, [times[59] / 1000 + 0.01, times[59] / 1000 + 0.045, 3.02]) == [59, 60, 75]
    assert numbers(path, [times[59] / 1000 + 0.045]) == [60]


def test_a_file_that_was_cut_in_an_open_group_begins_with_its_first_picture(tmp_path: Path) -> None:
    whole = ENCODINGS["mpeg4 mkv b-frames"].write(tmp_path / "whole", 120)
    with av.open(str(whole)) as container:
        order = [(packet.pts, packet.is_keyframe) for packet in container.demux(video=0) if packet.size]
    second = [number for number, (_, key) in enumerate(order) if key][1]
    leading = sum(time < order[second][0] for time, _ in order[second:])
    cut = remux(whole, tmp_path / "cut.mkv", lambda number, packet: number >= second)
    first = 120 - (len(order) - second) + leading
    assert leading == 2
    assert numbers(cut, (np.arange(120 - first) + 0.5) / RATE) == list(range(first, 120))
    assert (probe(cut).frames, probe(cut).repaired_times) == (120 - first, leading)


@pytest.mark.parametrize("cut", [10, 30])
def test_packets_that_an_edit_list_cuts_off_are_no_frames(tmp_path: Path, cut: int) -> None:
    """Of a whole group of pictures FFmpeg gives no packets."""
    whole = x264("mp4", "keyint=24").write(tmp_path / "whole", 120)
    shift = cut * 512

    def earlier(number: int, packet: Any) -> None:
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift

    path = remux(whole, tmp_path / "edited.mp4", earlier, {"avoid_negative_ts": "disabled"})
    index = inspect(path)
    assert len(index.starts) == 120 - cut
    assert index.discarded == cut % 24
    times = (np.arange(120 - cut) + 0.5) / RATE
    assert numbers(path, times) == list(range(cut, 120))
    assert numbers(path, times[::-7]) == list(range(cut, 120))[::-7]
    assert probe(path).reader == PYAV


@pytest.mark.parametrize("second", ["lower", "higher"])
def test_joined_transport_streams_follow_one_another(tmp_path: Path, second: str) -> None:
    """Clocks that begin anew, or far later, as after `cat a.ts b.ts`."""
    encoding = x264("ts", "keyint=24")
    first, other = encoding.write(tmp_path / "a", 100), encoding.write(tmp_path / "b", 80, first=100)
    if second == "higher":
        later = 1000 * 90_000

        def change(number: int, packet: Any) -> None:
            packet.pts, packet.dts = packet.pts + later, packet.dts + later

        other = remux(other, tmp_path / "later.ts", change)
    path = tmp_path / "joined.ts"
    path.write_bytes(first.read_bytes() + other.read_bytes())
    info = probe(path)
    assert info.clock_restarts == 1
    assert info.frames == 180
    assert info.duration == pytest.approx(7.2, abs=0.05)
    assert numbers(path, (np.arange(180) + 0.5) / RATE) == list(range(180))
    assert numbers(path, [6.02]) == [150]


def avi_with_empty_chunks(path: Path, codec: str, dropped: Sequence[int], half: bool = False) -> Path:
    """AVI writes an empty chunk for every missing time; with `half`, one after every picture."""
    options = {"x264-params": "keyint=24"} if codec == "libx264" else {"g": "24"}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=2 * RATE if half else RATE, options=options)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index in range(100):
            if index not in dropped:
                frame = av.VideoFrame.from_ndarray(moving_picture(index, 64, 64), format="rgb24")
                frame.pts, frame.time_base = (
                    (2 * index, Fraction(1, 2 * RATE)) if half else (index, Fraction(1, RATE))
                )
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("reader", ["auto", "pyav"])
def test_chunks_without_a_picture_take_time_in_avi(
    tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(READER_VARIABLE, reader)
    path = avi_with_empty_chunks(tmp_path / "dropped.avi", "mpeg4", (13, 14, 50, 51, 52, 90))
    info = probe(path)
    assert (info.frames, info.duration) == (94, pytest.approx(4.0))
    times = (np.arange(100) + 0.5) / RATE
    expected = [{13: 12, 14: 12, 50: 49, 51: 49, 52: 49, 90: 89}.get(index, index) for index in range(100)]
    assert numbers(path, times) == expected
    assert numbers(path, times[::-9]) == expected[::-9]


def test_avi_with_twice_the_rate_of_its_pictures(tmp_path: Path) -> None:
    path = avi_with_empty_chunks(tmp_path / "half.avi", "libx264", (), half=True)
    info = probe(path)
    assert (info.frames, info.duration, info.frames_per_second) == (
        100,
        pytest.approx(4.0),
        pytest.approx(RATE),
    )
    assert numbers(path, [1.02, 3.02]) == [25, 75]


def with_packet(source: Path, target: Path, number: int, change: Callable[[bytes], bytes]) -> Path:
    """Copy a file with other bytes in one packet."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for index, packet in enumerate(read.demux(video=0)):
            if packet.size == 0:
                continue
            copy = av.Packet(change(bytes(packet)) if index == number else bytes(packet))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.duration, copy.stream = packet.is_keyframe, packet.duration, stream
            written.mux(copy)
    return target


def hidden(data: bytes) -> bytes:
    """A packet of VP8 whose picture is not shown."""
    return bytes([data[0] & ~16]) + data[1:]


def not_coded(data: bytes) -> bytes:
    """A packet of MPEG-4 that repeats the picture, as DivX writes for dropped frames (25 frames a second)."""
    return b"\0\0\1\xb6" + int("01" + "0" + "1" + "00001" + "1" + "0" + "1" * 5, 2).to_bytes(2, "big")


@pytest.mark.parametrize(
    ("name", "suffix", "change"),
    [("vp8 webm", "webm", hidden), ("mpeg4 mkv", "mp4", not_coded), ("mpeg4 avi", "avi", not_coded)],
)
def test_a_packet_without_a_picture_is_no_frame(
    tmp_path: Path, name: str, suffix: str, change: Callable[[bytes], bytes]
) -> None:
    whole = ENCODINGS[name].write(tmp_path / "whole")
    path = with_packet(whole, tmp_path / f"hidden.{suffix}", 100, change)
    info = probe(path)
    assert (info.frames, info.duration) == (239, pytest.approx(9.6))
    expected = [99 if number == 100 else number for number in range(240)]
    read = numbers(path, (np.arange(240) + 0.5) / RATE)
    # Up to the next key frame, pictures are predicted from another one than was meant.
    assert (read[:101], read[120:]) == (expected[:101], expected[120:])
    assert numbers(path, [9.02, 6.02, 2.02]) == [225, 150, 50]


@pytest.mark.parametrize("name", ["h264 avi", "mpeg4 avi b-frames"])
def test_a_damaged_chunk_moves_no_other_frame(tmp_path: Path, name: str) -> None:
    whole = ENCODINGS[name].write(tmp_path / "whole")
    path = with_packet(whole, tmp_path / "damaged.avi", 101, lambda data: bytes(len(data)))
    assert numbers(path, [9.02, 6.02, 2.02]) == [225, 150, 50]


def test_a_file_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    path = x264("mp4", "keyint=24").write(tmp_path / "film", 100)
    assert numbers(path, [2.02, 3.02]) == [50, 75]
    x264("mp4", "keyint=24").write(tmp_path / "other", 100, first=100).replace(path)
    assert numbers(path, [2.02, 3.02]) == [150, 175]


def test_a_truncated_matroska_file_is_refused(tmp_path: Path) -> None:
    whole = x264("mkv", "keyint=24").write(tmp_path / "whole")
    content = whole.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 7 // 10])
    with pytest.raises(InputError, match=r"it is truncated: .* of 9\.6 s are there"):
        probe(tmp_path / "cut.mkv")


def with_matrix(path: Path, target: Path, a: int, b: int, c: int, d: int) -> Path:
    """Copy an mp4 file with another display matrix in its track header."""
    content = bytearray(path.read_bytes())
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    at = content.index(identity, content.index(b"tkhd"))
    content[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    target.write_bytes(content)
    return target


@pytest.mark.parametrize(
    "matrix",
    [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)],
)
def test_a_display_matrix_turns_and_mirrors(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    """x' = a x + c y and y' = b x + d y, about the middle: written out here for every pixel."""
    a, b, c, d = matrix
    plain = Encoding("libx264", "mp4", {"crf": "1"}, size=(64, 48)).write(tmp_path / "plain", 30)
    [coded] = read_frames(plain, [0.5])
    path = with_matrix(plain, tmp_path / "shown.mp4", a, b, c, d)
    [shown] = read_frames(path, [0.5])
    height, width = coded.shape[:2]
    expected = np.zeros((width, height, 3) if b else (height, width, 3), np.uint8)
    for y in range(height):
        for x in range(width):
            right, down = a * x + c * y, b * x + d * y
            # A mirrored picture lies left of or above the origin: its first pixel is at -1.
            right, down = right - (a + c < 0), down - (b + d < 0)
            expected[down % expected.shape[0], right % expected.shape[1]] = coded[y, x]
    assert np.abs(shown.astype(int) - expected.astype(int)).max() <= 6
    info = probe(path)
    mirrored = a * d - b * c < 0
    assert info.mirrored == mirrored
    assert (info.reader == PYAV) or not mirrored
    assert (info.height, info.width) == shown.shape[:2]


@pytest.mark.parametrize("sizes", [((64, 64), (128, 96)), ((128, 96), (64, 64))])
@pytest.mark.parametrize("reader", ["auto", "pyav"])
def test_of_several_streams_the_largest_is_read(
    tmp_path: Path, sizes: tuple[tuple[int, int], ...], reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(READER_VARIABLE, reader)
    path = tmp_path / "two.mp4"
    with av.open(str(path), "w") as container:
        streams: list[Any] = []
        for size in sizes:
            stream: Any = container.add_stream("libx264", rate=RATE)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            stream.disposition = Disposition.default
            streams.append(stream)
        for index in range(60):
            for stream, size in zip(streams, sizes, strict=True):
                number = index if size == (128, 96) else 255 - index
                frame = av.VideoFrame.from_ndarray(moving_picture(number, *size), format="rgb24")
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    info = probe(path)
    assert (info.width, info.height, info.frames) == (128, 96, 60)
    assert numbers(path, [1.02, 2.02]) == [25, 50]


def test_single_wrong_times_are_left_out() -> None:
    times: list[int | None] = [40 * index for index in range(200)]
    times[50], times[120] = 10**7, None
    found = timeline(packets(times), "matroska", MILLISECOND)
    assert found is not None
    assert (len(found.ticks), found.repaired, found.restarts) == (198, 2, 0)
    assert set(found.ticks) == {time for time in times if time not in (None, 10**7)}


def test_second_fields_have_no_frame_of_their_own() -> None:
    times = [each for index in range(100) for each in (40 * index, None)]
    found = timeline(packets(times), "mpegts", MILLISECOND)
    assert found is not None
    assert found.ticks.tolist() == list(range(0, 4000, 40))
    assert timeline(packets([None] * 10), "h264", MILLISECOND) is None


@given(st.lists(st.integers(1, 90), min_size=2, max_size=80), st.integers(0, 3), st.data())
@settings(max_examples=60, deadline=None)
def test_any_reordering_by_a_decoder_gives_the_same_times(
    gaps: list[int], delay: int, data: st.DataObject
) -> None:
    times = np.cumsum(gaps).tolist()
    order = [times[0], *data.draw(st.permutations(times[1:4])), *times[4:]] if delay else times
    found = timeline(packets(order), "matroska", MILLISECOND)
    assert found is not None
    assert found.ticks.tolist() == times
    assert (found.repaired, found.restarts) == (0, 0)


def test_idr_pictures_are_found_in_both_kinds_of_streams() -> None:
    slices = {True: b"\x65\x88", False: b"\x61\x9a"}
    for idr, content in slices.items():
        sei, unit = b"\x06\x05\x01\x00", content
        assert is_idr(b"\0\0\0\1" + sei + b"\0\0\1" + unit, 0) == idr
        assert is_idr(struct.pack(">I", len(sei)) + sei + struct.pack(">I", len(unit)) + unit, 4) == idr
    assert not is_idr(b"", 4)
    assert not is_idr(b"\0\0\1", 0)
    assert not is_idr(b"\0\0\0\0\0", 4)


def test_folders_of_images_are_videos(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(12):
        Image.fromarray(moving_picture(index, 64, 48)).save(folder / f"img_{index + 1:05d}.png")
    (folder / "notes.txt").write_text("not a picture")
    info = probe(folder, rate=10)
    assert (info.frames, info.duration, info.width, info.height) == (12, 1.2, 64, 48)
    assert info.reader == "images"
    frames = read_frames(folder, [0.05, 1.15, 0.55, 99.0], rate=10)
    assert [number_of(frame) for frame in frames] == [0, 11, 5, 11]
    assert np.array_equal(frames[2], moving_picture(5, 64, 48))
    assert read_frames(folder, [0.5], size=16, rate=10).shape == (1, 16, 16, 3)
    with pytest.raises(InputError, match="frames per second"):
        probe(folder)
    (folder / "img_00004.png").unlink()
    with pytest.raises(InputError, match="image 4 is missing"):
        probe(folder, rate=10)
    (folder / "img_00004.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot be decoded as an image"):
        read_frames(folder, [0.35], rate=10)
    for index in (0, 1, 2, 3):
        (folder / f"img_{index + 1:05d}.png").unlink()
    with pytest.raises(InputError, match="numbers must begin at 0 or 1"):
        probe(folder, rate=10)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="no numbered images"):
        probe(empty, rate=10)
