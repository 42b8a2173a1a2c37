"""What the options and the file itself say of rates, subsets and tiers, and what is said of both."""

import json
import sys
from pathlib import Path

import pytest

from bench.io.errors import InputError
from datasets.annotations.files import SUFFIXES
from datasets.annotations.formats import read_file
from datasets.annotations.imports.database import ImportOptions, video_id
from datasets.annotations.reader import read_annotations

sys.path.append(str(Path(__file__).parent))
import samples
from test_samples import AT_TEN, instances, written

FRAMES = "video,start_frame,end_frame,label{}\na,10,20,wave{}\n"


@pytest.mark.parametrize("name", ["label_studio.json", "label_studio_min.json", "tracks.xml", "tags.xml"])
def test_the_rate_of_frame_numbers_is_stored(tmp_path, name):
    database = read_file(written(tmp_path, name, samples.SAMPLES[name][0]), options=AT_TEN).database
    assert database["film" if name.endswith("xml") else "first"]["fps"] == 10
    if name == "label_studio.json":
        assert "fps" not in database["second one"]  # its times are seconds


def test_a_tables_rate_is_stored_and_comes_before_the_options(tmp_path):
    own = written(tmp_path, "x.csv", FRAMES.format(",fps", ",20"))
    file = read_file(own, options=AT_TEN)
    assert (instances(file), file.database["a"]["fps"]) == ({"a": [(0.5, 1, "wave")]}, 20)
    assert "--fps 10 is not used where the file has a rate: 20" in file.notes
    same = read_file(own, options=ImportOptions(fps=20)).notes
    assert not any("--fps" in note for note in same)
    given = read_file(written(tmp_path, "y.csv", FRAMES.format("", "")), options=AT_TEN)
    assert given.database["a"]["fps"] == 10
    two = FRAMES.format(",fps", ",20") + "a,30,40,wave,25\n"
    with pytest.raises(InputError, match=r"^z.csv: fps: 'a' has 20 and 25 frames per second, one rate"):
        read_file(written(tmp_path, "z.csv", two))


def test_a_table_in_seconds_keeps_its_rate(tmp_path):
    """A folder of images needs it."""
    text = "video,start,end,label,fps\na,1,2,wave,20\nb,1,2,wave,NA\n"
    database = read_file(written(tmp_path, "x.csv", text)).database
    assert [entry.get("fps") for entry in database.values()] == [20, None]


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        (
            "x.csv",
            "video,start,end,label,subset\na,1,2,wave,test\n",
            [
                "fps has no effect: no times",
                "subset has no effect: all videos have",
                "tiers has no effect: th",
            ],
        ),
        (
            "x.json",
            json.dumps({"database": {"a": {"subset": "test", "duration": 9, "annotations": []}}}),
            [
                "fps has no effect: no times",
                "subset has no effect: all videos have",
                "tiers has no effect: th",
            ],
        ),
        ("tracks.xml", samples.CVAT_VIDEO, ["subset has no effect", "tiers has no effect"]),
        ("tags.xml", samples.CVAT_IMAGES, ["tiers has no effect"]),
        ("film.eaf", samples.ELAN, ["fps has no effect"]),
    ],
)
def test_options_without_effect_are_said(tmp_path, name, content, lines):
    options = ImportOptions(10, "mine", ("action",))
    written(tmp_path, name, content)
    for path in (tmp_path / name, tmp_path):
        said = [note for note in read_file(path, options=options).notes if "no effect" in note]
        assert len(said) == len(lines)
        assert all(note.startswith(f"--{line}") for note, line in zip(said, lines, strict=True))


def test_entries_of_activitynet_without_a_subset_take_the_options(tmp_path):
    entry = {"duration": 9, "annotations": []}
    database = {"a": entry, "b": {**entry, "subset": "test"}, "c": {**entry, "subset": None}}
    path = written(tmp_path, "x.json", {"database": database})
    file = read_file(path, options=ImportOptions(subset="mine"))
    assert {video: each["subset"] for video, each in file.database.items()} == {
        "a": "mine",
        "b": "test",
        "c": "mine",
    }
    assert file.notes == ()
    with pytest.raises(InputError, match=r"a.subset: missing"):
        read_annotations(path)


@pytest.mark.parametrize("word", ["Default", "default"])
def test_cvats_default_subset_is_none(tmp_path, word):
    text = samples.CVAT_VIDEO.replace("<subset>Train<", f"<subset>{word}<")
    path = written(tmp_path, "val/x.xml", text)
    assert read_file(path, options=AT_TEN).database["film"]["subset"] == "all"
    assert read_file(path, options=ImportOptions(10, "mine")).database["film"]["subset"] == "mine"
    assert read_file(tmp_path, options=AT_TEN).database["film"]["subset"] == "validation"
    named = written(tmp_path, "test_x.xml", text)
    assert read_file(named, options=AT_TEN).database["film"]["subset"] == "testing"


def test_cvats_source_is_read_beside_the_task(tmp_path):
    text = samples.CVAT_VIDEO.replace("<source>film.mp4</source></task>", "</task><source>old.mp4</source>")
    assert list(read_file(written(tmp_path, "x.xml", text), options=AT_TEN).database) == ["old"]


@pytest.mark.parametrize("missing", ["empty", "cancelled", "predictions"])
def test_label_studios_tasks_without_annotation_are_left_out(tmp_path, missing):
    first, second = json.loads(json.dumps(samples.LABEL_STUDIO))
    results = [{**each, "was_cancelled": True} for each in first["annotations"]]
    first["annotations"] = results if missing == "cancelled" else []
    first["predictions"] = results if missing == "predictions" else []
    file = read_file(written(tmp_path, "x.json", [first, second]))
    assert list(file.database) == ["second one"]
    assert "1 tasks without an annotation are left out: they are not labelled" in file.notes
    with pytest.raises(InputError, match=r"^y.json: annotations: none of the 1 tasks has one"):
        read_file(written(tmp_path, "y.json", [first]))
    second["annotations"][0]["result"] = []  # submitted without instances
    assert instances(read_file(written(tmp_path, "z.json", [second]))) == {"second one": []}


def test_label_studios_html_names_its_source(tmp_path):
    first, _ = json.loads(json.dumps(samples.LABEL_STUDIO))
    for html in (
        "<video src='https://x/films/a.mp4'/>",
        '<div><video width="9" SRC="a.mp4" controls></video></div>',
    ):
        first["data"]["video"] = html
        assert list(read_file(written(tmp_path, "x.json", [first]), options=AT_TEN).database) == ["a"]


def test_suffixes_of_videos_are_those_of_the_videos_folder():
    for suffix in (*SUFFIXES, ".wav", ".FLAC"):
        assert video_id(f"films/a.b{suffix}") == "a.b"
    assert video_id("a.txt") == "a.txt"
    assert video_id(".mp4") == ".mp4"
