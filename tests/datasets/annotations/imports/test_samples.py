"""Every tool's file gives the instances worked out by hand, its subset and its notes."""

import json
import sys
from pathlib import Path

import pytest

from bench.io.errors import InputError
from datasets.annotations.formats import AnnotationFile, read_file
from datasets.annotations.imports.database import ImportOptions
from datasets.annotations.reader import read_annotations

sys.path.append(str(Path(__file__).parent))
import samples

AT_TEN = ImportOptions(fps=10)


def written(folder: Path, name: str, content: bytes | str | object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(content)
    return path


def instances(file: AnnotationFile) -> dict[str, list[tuple[float, float, str]]]:
    return {
        video: [(*item["segment"], item["label"]) for item in entry["annotations"]]
        for video, entry in file.database.items()
    }


@pytest.mark.parametrize("name", samples.SAMPLES)
@pytest.mark.parametrize("renamed", [False, True])
def test_instances_are_those_worked_out_by_hand(tmp_path, name, renamed):
    """The content decides, not the suffix."""
    content, wanted = samples.SAMPLES[name]
    found = instances(read_file(written(tmp_path, "data" if renamed else name, content), options=AT_TEN))
    rounded = {
        video: sorted((round(start, 9), round(end, 9), label) for start, end, label in each)
        for video, each in found.items()
    }
    assert rounded == {video: sorted(each) for video, each in wanted.items()}


@pytest.mark.parametrize("name", ["label_studio.json", "label_studio_min.json", "tracks.xml", "tags.xml"])
def test_frame_numbers_need_a_rate(tmp_path, name):
    path = written(tmp_path, name, samples.SAMPLES[name][0])
    line = rf"^{name}: its times are frame numbers and it has no rate.*doctor {path} --convert OUT.json --fps"
    for read in (read_file, read_annotations):
        with pytest.raises(InputError, match=line):
            read(path)


def test_mmaction_has_durations_and_the_subset_of_its_name(tmp_path):
    file = read_file(written(tmp_path, "anet_anno_train.json", samples.MMACTION))
    assert file.kind == "mmaction"
    assert {entry["subset"] for entry in file.database.values()} == {"training"}
    assert [entry["duration"] for entry in file.database.values()] == [82.5, 10]
    assert file.notes == ("the file's or folder's name gives the subset: training",)
    dataset = read_annotations(tmp_path / "anet_anno_train.json")
    assert [video.id for video in dataset.videos] == ["v_a1", "v_b2"]
    assert dataset.notes == file.notes


def test_a_subset_is_the_files_own_else_the_options_else_the_names(tmp_path):
    entry = samples.MMACTION["v_b2"]
    own = written(tmp_path, "x_val.json", {"a": {**entry, "subset": "mine"}, "b": entry})
    subsets = {
        v: e["subset"] for v, e in read_file(own, options=ImportOptions(subset="given")).database.items()
    }
    assert subsets == {"a": "mine", "b": "given"}
    assert read_file(own).database["b"]["subset"] == "validation"
    other = read_file(written(tmp_path, "latest.json", {"b": entry}))
    assert other.database["b"]["subset"] == "all"
    assert "no subsets in the file: all videos are in 'all'" in other.notes[0]


def test_via_says_what_is_left_out_and_reads_chosen_attributes(tmp_path):
    path = written(tmp_path, "via.json", samples.VIA)
    file = read_file(path)
    assert file.kind == "via"
    assert file.notes[:3] == (
        "instances of all attributes are read: 'Activity', 'Hands' (--tiers chooses)",
        "1 regions and single times are left out: they are no segments",
        "1 segments without a value are left out",
    )
    chosen = read_file(path, options=ImportOptions(tiers=("Hands",)))
    assert instances(chosen) == {"kitchen one": [(8, 9.5, "left"), (8, 9.5, "right")], "two": []}
    with pytest.raises(InputError, match="--tiers: got 'Hand', the attributes are 'Activity', 'Hands'"):
        read_file(path, options=ImportOptions(tiers=("Hand",)))


def test_elan_reads_chosen_tiers_and_names_its_media(tmp_path):
    path = written(tmp_path, "film.eaf", samples.ELAN)
    chosen = instances(read_file(path, options=ImportOptions(tiers=("note",))))
    assert chosen == {"my film": [(1.28, 2.28, "left hand"), (1.28, 2.28, "sure")]}
    without = samples.ELAN.replace("MEDIA_URL", "URL")
    file = read_file(written(tmp_path, "session 1.eaf", without))
    assert list(file.database) == ["session 1"]
    assert file.notes[0] == "no media file is named: the video's id is the annotation file's name"
    pal = samples.ELAN.replace('"milliseconds"', '"PAL-frames"')
    with pytest.raises(InputError, match="TIME_UNITS: got 'PAL-frames', milliseconds"):
        read_file(written(tmp_path, "pal.eaf", pal))
    endless = samples.ELAN.replace('ANNOTATION_REF="a1"', 'ANNOTATION_REF="a7"')
    with pytest.raises(InputError, match="a6: refers to no annotation with times"):
        read_file(written(tmp_path, "circle.eaf", endless))
    untimed = samples.ELAN.replace('"ts6" TIME_VALUE="5000"', '"ts6"')
    with pytest.raises(InputError, match="annotation a2: its time slots have no times"):
        read_file(written(tmp_path, "untimed.eaf", untimed))


def test_cvat_joins_frames_and_keeps_the_tasks_subset(tmp_path):
    file = read_file(written(tmp_path, "tracks.xml", samples.CVAT_VIDEO), options=AT_TEN)
    assert (file.kind, file.database["film"]["subset"]) == ("cvat", "Train")
    images = read_file(written(tmp_path, "tags.xml", samples.CVAT_IMAGES), options=AT_TEN)
    assert images.notes[0] == "1 shapes of single images are left out: export tracks 'for video'"


def test_cvat_tracks_of_several_tasks_go_to_their_videos(tmp_path):
    text = """<annotations><meta><project><tasks>
      <task><id>1</id><source>a.mp4</source></task><task><id>2</id><source>b.mp4</source></task>
      </tasks></project></meta>
      <track id="0" label="walk" task_id="2"><box frame="0" outside="0"/><box frame="10" outside="1"/></track>
      </annotations>"""
    file = read_file(written(tmp_path, "project.xml", text), options=AT_TEN)
    assert instances(file) == {"a": [], "b": [(0, 1, "walk")]}
    wrong = text.replace('task_id="2"', 'task_id="3"')
    with pytest.raises(InputError, match="task_id: got '3', the tasks are 1, 2"):
        read_file(written(tmp_path, "wrong.xml", wrong), options=AT_TEN)


def test_label_studio_prefers_ground_truth_and_strips_the_uploads_prefix(tmp_path):
    path = written(tmp_path, "export.json", samples.LABEL_STUDIO)
    file = read_file(path, options=AT_TEN)
    assert file.kind == "label-studio"
    assert "results that are no segments are left out: 1 videorectangle" in file.notes
    task = json.loads(json.dumps(samples.LABEL_STUDIO[1]))
    other = json.loads(json.dumps(task["annotations"][0]))
    other["result"][0]["value"]["labels"] = ["Other"]
    for truth, label in ((True, "Other"), (False, "Clap")):
        several = {**task, "annotations": [{**other, "ground_truth": truth}, task["annotations"][0]]}
        file = read_file(written(tmp_path, "several.json", [several]))
        assert instances(file)["second one"][0] == (1.25, 2.5, label)
        assert "1 tasks have several annotations: the ground truth or the last one is read" in file.notes


def test_offsets_of_characters_are_no_seconds(tmp_path):
    value = {"start": 3, "end": 9, "text": "a word", "labels": ["Name"]}
    task = {"data": {"video": "a.mp4"}, "annotations": [{"result": [{"type": "labels", "value": value}]}]}
    file = read_file(written(tmp_path, "text.json", [task]))
    assert instances(file) == {"a": []}
    assert "results that are no segments are left out: 1 labels" in file.notes


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"a": 1}, r"^x: database: missing; known are ActivityNet's, .* ELAN \(.eaf\), CVAT XML 1.1, CSV"),
        ([1, 2], r"^x: top level: got \[1, 2\], an object is needed; known are ActivityNet's"),
        ("<svg/>", "^x: XML of an unknown kind 'svg'; known are ActivityNet's"),
        (
            "just words\n",
            "^x: no format is recognised; known are .* Known names of columns are video: video, ",
        ),
        ("<a>", "^x: not XML: no element found"),
        (
            '<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>',
            "^x: it has a DOCTYPE, which is not",
        ),
        ("", "^x: no format is recognised"),
    ],
)
def test_an_unknown_file_gets_one_line_with_the_known_formats(tmp_path, content, line):
    with pytest.raises(InputError, match=line) as caught:
        read_file(written(tmp_path, "x", content))
    assert len(str(caught.value).splitlines()) == 1


def test_a_doctype_is_refused_in_any_encoding(tmp_path):
    text = (
        '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>'
    )
    with pytest.raises(InputError, match="DOCTYPE"):
        read_file(written(tmp_path, "x.xml", text.encode("utf-16")))


def test_a_folder_joins_files_with_the_subsets_of_their_names(tmp_path):
    written(tmp_path, "train/film.eaf", samples.ELAN)
    written(tmp_path, "extra/segments.csv", samples.CSV)
    written(tmp_path, "anet_test.json", samples.MMACTION)
    written(tmp_path, "durations.csv", "video,duration\nmy film,8\na,9\nb,10\n")
    file = read_file(tmp_path)
    subsets = {video: entry["subset"] for video, entry in file.database.items()}
    wanted = {"v_a1": "testing", "v_b2": "testing", "a": "extra", "b": "extra", "my film": "training"}
    assert (file.kind, subsets) == ("folder", wanted)
    assert file.notes[0] == "files read: 1 elan, 1 mmaction, 1 table"
    assert "durations.csv is not read as annotations: it is no table of segments" in file.notes
    dataset = read_annotations(tmp_path)
    assert {video.id: video.duration for video in dataset.videos}["my film"] == 8
    written(tmp_path, "train/again.eaf", samples.ELAN)
    with pytest.raises(
        InputError, match=r"train/film.eaf: 'my film': another .* has it too, train/again.eaf;"
    ):
        read_file(tmp_path)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(
        InputError, match=r"holds no text file of a class .* and no annotation file; known are"
    ):
        read_file(tmp_path)


def test_a_via_checkbox_without_options_has_one_text(tmp_path):
    """As in projects whose checkbox is used as a text field."""
    changed = json.loads(json.dumps(samples.VIA))
    changed["attribute"]["3"]["options"] = {}
    file = read_file(written(tmp_path, "via.json", changed), options=ImportOptions(tiers=("Hands",)))
    assert instances(file)["kitchen one"] == [(8, 9.5, "l,r")]
