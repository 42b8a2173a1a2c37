"""Files of strangers are read within bounds, or refused in one line before they cost anything."""

import gzip
import json
import os
import time
from pathlib import Path

import pytest

from bench.detection import read_submission
from bench.detection.submission import read_ground_truth
from bench.io import reading as bounded_reading
from bench.io.errors import InputError
from bench.io.reading import decompressed, read_bytes, read_json, read_text
from bench.io.text import format_value, has_control_chars, is_name, printable, short
from datasets.annotations.reader import read_annotations


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def refusal(path: Path, **settings: object) -> str:
    with pytest.raises(InputError) as caught:
        read_json(path, **settings)  # type: ignore[arg-type]
    assert str(caught.value).isprintable()
    return str(caught.value)


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path, suffix: str) -> None:
    path = sparse(tmp_path / f"large{suffix}", 2**40)
    started = time.monotonic()
    for read in (read_json, read_annotations, read_submission):
        with pytest.raises(InputError, match=r"1,048,576 MiB, allowed are at most 256 MiB"):
            read(path)
    assert time.monotonic() - started < 1


def test_a_string_of_a_gigabyte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    with path.open("wb") as file:
        file.write(b'{"results": {"')
        file.seek(2**30)
        file.write(b'": []}}')
    assert "1,024 MiB, allowed are at most 256 MiB" in refusal(path)


def test_a_small_file_that_unpacks_to_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "bomb.json.gz", gzip.compress(bytes(2**25)))
    assert "unpacks to more than 16 MiB" in refusal(path, largest=2**24)
    assert decompressed(gzip.compress(b"ab") + bytes(600) + gzip.compress(b"c"), 3) == b"abc"
    with pytest.raises(ValueError, match="unpacks to more than 2 bytes"):
        decompressed(gzip.compress(b"ab") + gzip.compress(b"c"), 2)
    monkeypatch.setattr(bounded_reading, "MAX_MEMBERS", 10)
    with pytest.raises(ValueError, match="more than 10 gzip files"):
        decompressed(gzip.compress(b"") * 11, 2)
    with pytest.raises(EOFError):
        decompressed(b"", 2)


def test_more_values_than_memory_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_reading, "MAX_VALUES", 1000)
    assert read_json(written(tmp_path / "a.json", b"[" + b"[]," * 400 + b"[]]"))
    assert "more than 1,000 values" in refusal(written(tmp_path / "a.json", b"[" + b"[]," * 500 + b"[]]"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_pipes_devices_and_folders_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "link.json").symlink_to("/dev/zero")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "broken.json").symlink_to("nowhere")
    (tmp_path / "circle.json").symlink_to("circle.json")
    for name in ("pipe", "link"):
        assert "it is not a regular file" in refusal(tmp_path / f"{name}.json")
    for name in ("folder", "broken", "circle", "nul\0"):
        assert "cannot be read" in refusal(tmp_path / f"{name}.json")
    (tmp_path / "kept.json").write_text("[1]")
    (tmp_path / "good.json").symlink_to("kept.json")
    assert read_json(tmp_path / "good.json") == [1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 10**6, "nested too deeply"),
        (b'{"a":' * 10**6, "nested too deeply"),
        (b"9" * 10**5, "not JSON: Exceeds the limit"),
        (b'{"a": 1, "a": 2}', "key 'a' is given twice"),
        (b"\xff\xfe{\x00}\x00", "not text in UTF-8"),
        (b"", "line 1: not JSON"),
        (b'{"a\x1b[2J": }', "not JSON"),
    ],
)
def test_wrong_json_is_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in refusal(written(tmp_path / "a.json", content))


def test_a_mark_at_the_beginning_is_no_fault(tmp_path: Path) -> None:
    assert read_json(written(tmp_path / "a.json", b"\xef\xbb\xbf[1.5]"), finite=True) == [1.5]
    assert read_text(written(tmp_path / "a.txt", b"\xef\xbb\xbfa")) == "a"


def test_where_numbers_must_be_finite_and_lists_shallow(tmp_path: Path) -> None:
    for text in ("NaN", "-Infinity", "1e999"):
        path = written(tmp_path / "a.json", f"[{text}]".encode())
        assert "a finite number is needed" in refusal(path, finite=True)
    levels = bounded_reading.MAX_LEVELS
    good = written(tmp_path / "a.json", b"[" * levels + b"]" * levels)
    assert read_json(good, finite=True)
    assert "64 levels" in refusal(written(good, b"[" * (levels + 2) + b"]" * (levels + 2)), finite=True)


def test_names_that_would_fill_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of text keeps every name as long as its longest."""
    monkeypatch.setattr("bench.detection.submission.MAX_CHARACTERS", 1000)
    one = {"segment": [0, 1], "label": "x", "score": 1}
    path = tmp_path / "a.json"
    assert len(read_submission(written(path, json.dumps({"results": {"v" * 200: [one] * 5}}).encode()))) == 5
    written(path, json.dumps({"results": {"v" * 200: [one], "b": [one] * 5}}).encode())
    with pytest.raises(InputError, match=r"6 segments with names of up to 200 characters, allowed are 5 of"):
        read_submission(path)


@pytest.mark.parametrize("name", ["", "x" * 201, "a\x1b[2J", "a\nb", "\ud800", "a\u202eb", "a\0"])
def test_names_that_act_are_refused_in_detections_and_truth(tmp_path: Path, name: str) -> None:
    entry = {"segment": [0, 1], "label": name, "score": 1}
    for document in ({"results": {"v": [entry]}}, {"results": {name: [{**entry, "label": "a"}]}}):
        with pytest.raises(InputError, match="none of them a control"):
            read_submission(written(tmp_path / "a.json", json.dumps(document).encode()))
    truth = {"database": {"v": {"subset": "s", "annotations": [entry]}}}
    with pytest.raises(InputError, match="none of them a control"):
        read_ground_truth(written(tmp_path / "a.json", json.dumps(truth).encode()), "s")


def test_what_is_shown_does_not_act() -> None:
    assert printable("a\x1b[2J\r\n\u202e\ud800é") == "a\\x1b[2J\\r\\n\\u202e\\ud800é"
    assert printable("x" * 50, 10) == "x" * 9 + "…"
    assert str(InputError("one\ntwo\x07")) == "one\\ntwo\\x07"
    assert format_value("\x1b" * 100).isprintable()
    assert short(["é\x1b"] * 1000).isascii()
    deep: object = 1
    for _ in range(900):
        deep = [deep]
    assert len(format_value(deep)) < 40
    assert len(short(deep)) <= 60
    assert not has_control_chars("Vélo 自転車\u3000走る")
    assert is_name("a b")
    assert not is_name("")
    assert not is_name(3)


def test_a_file_that_grows_is_not_read_past_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a", b"x" * 100)
    real = os.fstat
    monkeypatch.setattr(
        os, "fstat", lambda handle: os.stat_result((*real(handle)[:6], 10, *real(handle)[7:]))
    )
    assert read_bytes(path, 200) == b"x" * 100
    with pytest.raises(InputError, match="more than 20 bytes"):
        read_bytes(path, 20)
