"""``bench.doctor --convert``, and annotations of other tools as the data set of a run."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench.doctor import main
from bench.io.errors import InputError
from bench.run.matrix import load_dataset as load_for_run
from bench.run.options import parser as run_parser
from bench.run.options import specifications
from datasets import load_dataset, read_annotations
from datasets.cards.cards import card_protocol, is_annotation_path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "datasets"))
from movies import write  # noqa: E402

TABLE = """video,start,end,label,split
a.mp4,0:01,2.5,run,training
a.mp4,3,4,jump,training
b.mp4,1,2,run,testing
c.mp4,,,,testing
"""
FRAMES = "video,start_frame,end_frame,label\na,10,25,run\n"


def saved(folder: Path, text: str, name: str = "segments.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def with_videos(folder: Path) -> Path:
    (folder / "films").mkdir(exist_ok=True)
    for number, name in enumerate("abc"):  # films that differ
        write(folder / "films" / f"{name}.mp4", key_frames=20 + number)
    return folder / "films"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TALBENCH_CACHE", str(tmp_path / "cache"))


def test_a_table_is_converted_with_the_durations_of_its_videos(tmp_path, capsys):
    path, out, films = saved(tmp_path, TABLE), tmp_path / "out.json", with_videos(tmp_path)
    assert main([str(path), "--convert", str(out), "--data", str(films)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines()[:2] == [
        "columns taken: video = 'video', start = 'start', end = 'end', label = 'label', subset = 'split'",
        f"{out}: 3 videos, 3 instances, read as table",
    ]
    first, second = read_annotations(path, root=films), read_annotations(out)
    assert (first.videos, first.classes) != ((), ())
    facts = [(v.id, v.subset, v.duration, v.instances) for v in first.videos]
    assert facts == [(v.id, v.subset, v.duration, v.instances) for v in second.videos]
    assert [video.duration for video in second.videos] == [6.0, 6.0, 6.0]


def test_missing_durations_are_said_and_the_rest_is_written(tmp_path, capsys):
    path, out = saved(tmp_path, TABLE), tmp_path / "out.json"
    main([str(path), "--convert", str(out), "--json", "-"])
    printed = capsys.readouterr()
    json.loads(printed.out)
    assert printed.err.splitlines()[-1] == (
        f"{out}: 3 videos have no duration: a, b, c; --data names the folder of their videos"
    )
    films = with_videos(tmp_path)
    (films / "b.mp4").unlink()
    main([str(path), "--convert", str(out), "--data", str(films)])
    assert f"{out}: 1 videos have no duration: b; {films} has no file of them" in capsys.readouterr().out
    saved(tmp_path, "video,duration\nb,9\n", "durations.csv")
    main([str(path), "--convert", str(out), "--data", str(films)])
    assert "have no duration:" not in capsys.readouterr().out
    assert json.loads(out.read_text())["database"]["b"]["duration"] == 9


def test_frames_need_a_rate_and_a_subset_can_be_given(tmp_path, capsys):
    path, out = saved(tmp_path, FRAMES), tmp_path / "out.json"
    for words in ([str(path)], [str(path), "--convert", str(out)]):
        assert main(words) == 2
        printed = capsys.readouterr()
        assert len(printed.err.splitlines()) == 1
        assert "its times are frame numbers and it has no rate: give it as" in printed.err
    assert not out.exists()
    saved(tmp_path, "video,duration\na,9\n", "durations.csv")
    main([str(path), "--convert", str(out), "--fps", "10", "--subset", "training"])
    dataset = read_annotations(out)
    assert dataset.subsets == ("training",)
    assert [(i.start, i.end) for i in dataset.videos[0].instances] == [(1, 2.5)]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--fps", "10"], "--fps: allowed only with --convert OUT.json"),
        (["--subset", "x"], "--subset: allowed only with --convert OUT.json"),
        (["--convert", "out.txt"], "--convert: got out.txt, allowed are names ending in .json"),
        (["--convert", "o.json", "--fps", "0"], "--fps: got 0, allowed is a number of frames per second"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, capsys, words, line):
    assert main([str(saved(tmp_path, TABLE)), *words]) == 2
    printed = capsys.readouterr().err
    assert line in printed
    assert len(printed.splitlines()) == 1


def test_the_annotations_are_never_overwritten(tmp_path, capsys):
    path = saved(tmp_path, json.dumps({"database": {}}), "a.json")
    assert main([str(path), "--convert", str(path)]) == 2
    assert "is the file that is converted" in capsys.readouterr().err
    assert main(["--convert", str(path)]) == 2
    assert "--convert: the annotations to convert are needed" in capsys.readouterr().err


def test_a_wrong_rate_is_found_in_the_films(tmp_path, capsys):
    path, films = saved(tmp_path, FRAMES), with_videos(tmp_path)
    out, words = tmp_path / "out.json", ["--data", str(films), "--subset", "training"]
    for rate, wrong in (("25", True), ("10", False)):
        main([str(path), "--convert", str(out), "--fps", rate, *words])
        assert ("rate unlike annotated" in capsys.readouterr().out) == wrong
    own = saved(tmp_path, "video,start_frame,end_frame,label,fps\na,10,25,run,25\n", "own.csv")
    main([str(own), "--data", str(films)])
    assert "rate unlike annotated" in capsys.readouterr().out


def test_the_proposed_command_works_as_it_is(tmp_path, capsys):
    folder = tmp_path / "my films"
    folder.mkdir()
    path, out = saved(folder, FRAMES), tmp_path / "out.json"
    for given in (path, folder):
        assert main([str(given)]) == 2
        proposed = capsys.readouterr().err.strip().partition("python -m bench.doctor ")[2]
        words = shlex.split(proposed.replace("OUT.json", str(out)).replace("RATE", "10"))
        assert words == [str(given), "--convert", str(out), "--fps", "10"]
        main(words)
        assert "1 videos, 1 instances, read as" in capsys.readouterr().out


def test_a_folder_converted_into_itself_names_both_files(tmp_path, capsys):
    saved(tmp_path, TABLE)
    out = tmp_path / "out.json"
    main([str(tmp_path), "--convert", str(out)])
    assert out.exists()
    capsys.readouterr()
    assert main([str(tmp_path), "--convert", str(out)]) == 2
    printed = capsys.readouterr().err
    assert "segments.csv: 'a': another file of the folder has it too, out.json; keep one of them" in printed
    assert len(printed.splitlines()) == 1


def test_options_without_effect_are_said_and_activitynets_entries_take_a_subset(tmp_path, capsys):
    entry = {"duration": 9, "annotations": [{"segment": [1, 2], "label": "run"}]}
    path = saved(tmp_path, json.dumps({"database": {"a": entry}}), "a.json")
    out = tmp_path / "out.json"
    main([str(path), "--convert", str(out), "--subset", "training", "--fps", "10"])
    assert "--fps has no effect: no times are frame numbers" in capsys.readouterr().out
    assert read_annotations(out).subsets == ("training",)


def test_without_convert_the_doctor_examines_the_table_itself(tmp_path, capsys):
    path, films = saved(tmp_path, TABLE), with_videos(tmp_path)
    main([str(path), "--data", str(films)])
    printed = capsys.readouterr().out
    assert "training: 1 videos (0 without instances), 2 instances of 2 classes" in printed
    assert "note: import\n  columns taken: video = 'video'" in printed


def test_a_table_is_the_data_set_of_a_run(tmp_path, capsys):
    path, films = saved(tmp_path, TABLE), with_videos(tmp_path)
    dataset = load_dataset(str(path), data=films)
    assert (dataset.name, dataset.subsets, len(dataset.videos)) == ("segments", ("testing", "training"), 3)
    words = ["--dataset", str(path), "--data", str(films), "--cache", str(tmp_path / "cache")]
    options = run_parser().parse_args([*words, "--results", str(tmp_path / "results"), "--device", "cpu"])
    spec = specifications(options)[0]
    assert spec.dataset == str(path)
    assert load_for_run(spec).videos == dataset.videos
    assert capsys.readouterr().err.startswith("bench.run: segments.csv: columns taken: video = 'video'")


@pytest.mark.parametrize(
    "name", ["x.json", "x.json.gz", "x.CSV", "x.tsv", "x.eaf", "x.xml", "./x", "a/thumos14"]
)
def test_a_path_of_annotations_is_told_from_a_name(name):
    assert is_annotation_path(name)
    assert card_protocol(name) == {}


@pytest.mark.parametrize("name", ["thumos14", "thumos14:211", "hacs:1.1.1", "miniature", "x"])
def test_a_name_is_no_path(name):
    assert not is_annotation_path(name)


def test_an_unknown_name_says_that_paths_are_allowed():
    with pytest.raises(
        InputError, match=r"known are .*, or an annotation file, as my.json, my.csv or ./folder"
    ):
        load_dataset("mine")


@pytest.mark.parametrize("name", ["x.json", "x.csv", "x.eaf", "./folder", "a/thumos14"])
def test_make_doctor_takes_a_path_as_annotations(name):
    words = ["make", "-n", "-s", "doctor", f"DATASET={name}", "DATA=films"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"bench.doctor {name} --data films" in " ".join(shlex.split(done.stdout))


def test_make_doctor_takes_a_name_as_a_card():
    words = ["make", "-n", "-s", "doctor", "DATASET=hacs:1.1.1", "DATA=films"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--card hacs:1.1.1 --data films" in " ".join(shlex.split(done.stdout))
