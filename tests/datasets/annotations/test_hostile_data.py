"""Folders of data from strangers: names lead nowhere, playlists are no videos, caches are checked."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from movies import write

from bench.doctor import main
from bench.io.errors import InputError
from datasets.annotations.entries import unsafe_name
from datasets.annotations.files import walk
from datasets.annotations.reader import read_annotations, video_path
from datasets.checks import probing
from datasets.checks.probing import probe_files
from datasets.miniature import read_source
from datasets.video.frames import probe

FACTS = {
    "frames": 60,
    "frames_per_second": 10.0,
    "duration": 6.0,
    "width": 64,
    "height": 64,
    "reader": "x",
    "variable_rate": False,
    "offset_seconds": 0.0,
    "rotation": 0,
    "mirrored": False,
    "repaired_times": 0,
    "clock_restarts": 0,
    "reader_reason": "",
    "seekable": True,
}


def annotated(folder: Path, **entry: Any) -> Path:
    path = folder / "annotations.json"
    key = entry.pop("id", "a")
    whole = {"subset": "training", "duration": 10.0, "annotations": [], **entry}
    path.write_text(json.dumps({"database": {key: whole}}))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../a",
        "..",
        "/etc/passwd",
        "a/b",
        "a\\b",
        ".hidden",
        "a\0b",
        "a\x1b[2J",
        "a\u202eb",
        "x" * 201,
        "",
        " ",
    ],
)
def test_no_id_leads_out_of_its_folder(tmp_path: Path, name: str) -> None:
    assert unsafe_name(name, allow_folders=False)
    with pytest.raises(InputError) as caught:
        read_annotations(annotated(tmp_path, id=name))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["../a.mp4", "/etc/passwd", "a/../../b", "a/.b", "\\\\x\\y"])
def test_no_file_leads_out_of_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"database\.a\.file"):
        read_annotations(annotated(tmp_path, file=name))


@pytest.mark.parametrize(
    "name", ["-rf", "--help", "v_é.x", "a b", "console", "100%", "$(x)", "a;b", "x" * 200]
)
def test_odd_but_harmless_ids_are_names_like_others(tmp_path: Path, name: str) -> None:
    [video] = read_annotations(annotated(tmp_path, id=name)).videos
    assert video.id == name


@pytest.mark.parametrize("label", ["x" * 201, "a\nb", "\x1b]0;x\x07", "\u2066x"])
def test_labels_that_act_are_refused(tmp_path: Path, label: str) -> None:
    with pytest.raises(InputError, match=r"annotations\[0\]\.label"):
        read_annotations(annotated(tmp_path, annotations=[{"segment": [0, 1], "label": label}]))


def test_markup_in_labels_is_a_label_like_others(tmp_path: Path) -> None:
    label = "<script>alert(1)</script>"
    path = annotated(tmp_path, annotations=[{"segment": [0, 1], "label": label}])
    assert read_annotations(path).classes == (label,)


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile whole.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nwhole.ts\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    ],
    ids=["concat", "hls", "sdp"],
)
def test_a_list_of_other_files_is_no_video(tmp_path: Path, text: str) -> None:
    write(tmp_path / "whole.mp4")
    write(tmp_path / "whole.ts")
    path = tmp_path / "a.mp4"
    path.write_text(text)
    with pytest.raises(InputError, match="it is no video that can be read"):
        probe(path)


def test_a_file_called_as_an_address_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "concat:b.mp4" if sys.platform != "win32" else "b.mp4"
    write(tmp_path / "whole.mp4").rename(tmp_path / name)
    assert probe(Path(name)).frames == 60


@pytest.mark.parametrize(
    "facts",
    [
        {},
        [],
        {"error": ["x"]},
        {"frames": 60},
        {**FACTS, "duration": "long"},
        {**FACTS, "duration": 0.0},
        {**FACTS, "duration": float("nan")},
        {**FACTS, "frames": 10**400},
        {**FACTS, "frames": True},
        {**FACTS, "decoded": None},
        {**FACTS, "another": 1},
    ],
)
def test_facts_that_are_none_are_found_again(tmp_path: Path, facts: Any) -> None:
    path = write(tmp_path / "a.mp4")
    cache = tmp_path / "facts.jsonl"
    lines = [json.dumps([probing._identity(path, False), facts]), "[" * 10**5, "\x00", "[1, 2, 3]"]
    cache.write_text("\n".join(lines) + "\n")
    assert probe_files({"a": path}, cache)["a"]["frames"] == 60
    assert probing._usable({**FACTS, "duration": 6})
    assert probing._usable({**FACTS, "decoded": 3})


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (tmp_path / "a" / "v.mp4").symlink_to("v.mp4")
    (tmp_path / "a" / "w.mp4").write_text("x")
    started = time.monotonic()
    assert sorted(walk(tmp_path)) == ["a/v.mp4", "a/w.mp4"]
    dataset = read_annotations(annotated(tmp_path, id="v"), root=tmp_path / "a")
    with pytest.raises(InputError, match="no file for video 'v'"):
        video_path(dataset, dataset.videos[0])
    assert time.monotonic() - started < 5


def test_the_doctor_prints_nothing_that_acts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {"subset": "training", "duration": 10.0, "annotations": []}
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps({"database": {"\x1b[2Ja": entry, "b": {**entry, "subset": "\x07"}, "c": entry}})
    )
    assert main([str(path)]) == 2
    printed = capsys.readouterr()
    assert (printed.out + printed.err).replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "labels",
    [
        {"classes": ["a"], "clips": [{"file": "../a.mp4", "subset": "training", "label": "a"}]},
        {"classes": ["a"], "clips": [{"file": "a.mp4"}]},
        {"classes": 3, "clips": []},
        [],
    ],
)
def test_a_cache_of_source_clips_leads_nowhere_else(tmp_path: Path, labels: Any) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    with pytest.raises(InputError, match=r"labels\.json: "):
        read_source(tmp_path)
