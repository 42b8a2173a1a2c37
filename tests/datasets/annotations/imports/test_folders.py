"""Folders of annotation files: which are read, their subsets, and the tables of durations beside them."""

import gzip
import json
import sys
from pathlib import Path

import pytest

from bench.io.errors import InputError
from datasets.annotations.formats import VideoFacts, read_facts, read_file

sys.path.append(str(Path(__file__).parent))
import samples
from test_samples import instances, written

ROWS = "video,start,end,label\na,1,2,wave\n"
WAVE = {"a": [(1, 2, "wave")]}
# Without the time, so that every process of a test run gives a test the same name.
PACKED = gzip.compress(json.dumps({"database": {"a": {"annotations": []}}}).encode(), mtime=0)


@pytest.mark.parametrize("stray", ["", "read me first\n", "Hello, world\nwave: 1, 2\n"])
@pytest.mark.parametrize("name", ["notes.txt", "readme.txt"])
def test_a_stray_text_is_left_out_with_a_note(tmp_path, name, stray):
    written(tmp_path, name, stray)
    written(tmp_path, "x.csv", ROWS)
    file = read_file(tmp_path)
    assert (file.kind, instances(file)) == ("folder", WAVE)
    assert f"{name} is not read as annotations: it is no table of segments" in file.notes


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.txt", ROWS.replace(",", "\t").encode()),
        ("x.txt", ROWS.encode("utf-16")),
        ("x.json.gz", PACKED),
        ("X.JSON.GZ", PACKED),
    ],
)
def test_tables_in_text_files_and_packed_json_are_read(tmp_path, name, content):
    written(tmp_path, name, content)
    written(tmp_path, "film.eaf", samples.ELAN)
    assert {"a", "my film"} == set(read_file(tmp_path).database)


def test_thumos_is_recognised_by_its_lines(tmp_path):
    written(tmp_path, "Diving_val.txt", "video_validation_0000001 1.5 2\n")
    written(tmp_path, "readme.txt", "read me\n")
    written(tmp_path, "durations.csv", "video,duration\nvideo_validation_0000001,9\n")
    file = read_file(tmp_path)
    assert (file.kind, file.notes) == ("thumos-text", ())
    assert file.database["video_validation_0000001"]["annotations"] == [
        {"segment": ["1.5", "2"], "label": "Diving"}
    ]
    written(tmp_path, "x.csv", ROWS)
    written(tmp_path, "film.eaf", samples.ELAN)
    assert read_file(tmp_path).notes == ("not read beside the text files of classes: film.eaf, x.csv",)
    written(tmp_path, "Biking_val.txt", "some words\n")
    with pytest.raises(InputError, match=r"Biking_val.txt: line 1: got 'some words', 'video start end' is"):
        read_file(tmp_path)


@pytest.mark.parametrize(
    ("name", "subset"),
    [
        ("train/test_run.csv", "training"),
        ("val/x.csv", "validation"),
        ("Test/deep/x.csv", "testing"),
        ("train/val/x.csv", "validation"),
        ("fold1/x_train.csv", "training"),
        ("fold1/x.csv", "fold1"),
        ("x.csv", "all"),
    ],
)
def test_the_subset_is_that_of_the_nearest_folder_else_of_the_file(tmp_path, name, subset):
    written(tmp_path, name, ROWS)
    assert read_file(tmp_path).database["a"]["subset"] == subset


def test_a_video_with_two_durations_is_refused_with_both_lines(tmp_path):
    path = written(tmp_path, "x.csv", ROWS)
    written(tmp_path, "d.csv", "video,duration\na,9\nb,5\na,10\n")
    with pytest.raises(InputError, match=r"d.csv: line 4: 'a' lasts 10 s, and 9 s in d.csv: line 2"):
        read_facts(path)
    written(tmp_path, "d.csv", "video,duration\na,9\na,9.0\n")
    assert read_facts(path) == {"a": VideoFacts(9)}
    written(tmp_path, "e.csv", "video,fps,count\na,10,80\n")
    with pytest.raises(InputError, match=r"e.csv: line 2: 'a' lasts 8 s, and 9 s in d.csv: line 3"):
        read_facts(path)
    (tmp_path / "e.csv").unlink()
    written(tmp_path, "d.csv", "video,duration\na,9,5\n")
    with pytest.raises(InputError, match=r"d.csv: line 2: more cells than the first line has"):
        read_facts(path)


def test_other_csv_files_beside_the_annotations_may_be_anything(tmp_path):
    path = written(tmp_path, "x.csv", ROWS)
    written(tmp_path, "latin.csv", "größe,straße\n1,2\n".encode("latin-1"))
    written(tmp_path, "binary.csv", bytes(range(256)))
    written(tmp_path, "d.csv", "video,duration\na,9\n")
    assert read_facts(path) == {"a": VideoFacts(9)}
