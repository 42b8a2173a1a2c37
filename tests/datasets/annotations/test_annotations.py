import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from bench.io.errors import InputError
from datasets.annotations.dataset import Dataset, Instance, SegmentPolicy
from datasets.annotations.entries import AnnotationRules
from datasets.annotations.reader import read_annotations, video_path

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")


def entry(*segments: tuple[Any, Any, Any], subset: Any = "training", duration: Any = 10.0) -> dict[str, Any]:
    annotations = [{"segment": [start, end], "label": label} for start, end, label in segments]
    return {"subset": subset, "duration": duration, "annotations": annotations}


def write(folder: Path, database: Any) -> Path:
    path = folder / "annotations.json"
    path.write_text(json.dumps({"version": "1", "taxonomy": [], "database": database}))
    return path


def test_a_good_file_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path, {"b": entry((4, 5, "run"), (1, "2.5", "jump")), "a": entry(subset="testing", duration="7")}
    )
    dataset = read_annotations(path)
    assert dataset.classes == ("jump", "run")
    assert [video.id for video in dataset.videos] == ["b", "a"]
    assert dataset.subset("training")[0].instances == (Instance(1.0, 2.5, "jump"), Instance(4.0, 5.0, "run"))
    assert dataset.subset("testing")[0].duration == 7.0
    assert dataset.subsets == ("testing", "training")
    assert dataset.instance_count("training") == 2
    assert dataset.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (dataset.name, dataset.variant, dataset.root) == ("annotations", "own", tmp_path)


def test_a_compressed_file_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, {"a": entry((1, 2, "run"))})
    packed = tmp_path / "packed.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_annotations(packed).videos == read_annotations(path).videos
    packed.write_bytes(packed.read_bytes()[:40])
    with pytest.raises(InputError, match=r"packed\.json\.gz: truncated"):
        read_annotations(packed)


def test_an_end_just_past_the_video_is_clipped_and_counted(tmp_path: Path) -> None:
    dataset = read_annotations(write(tmp_path, {"a": entry((1, 10.5, "run"), (2, 3, "run"))}))
    assert dataset.videos[0].instances[0].end == 10.0
    assert dataset.clipped == 1


def test_invalid_segments_are_dropped_and_counted_on_request(tmp_path: Path) -> None:
    path = write(tmp_path, {"a": entry((3, 2, "run"), (1, 20, "run"), (1, 2, "run"), (1, 2, "run"))})
    dataset = read_annotations(path, rules=AnnotationRules(policy=SegmentPolicy("drop", "drop", "drop")))
    assert dataset.videos[0].instances == (Instance(1.0, 2.0, "run"),)
    assert (dataset.repairs.empty, dataset.repairs.outside, dataset.repairs.duplicates) == (1, 1, 1)
    assert dataset.dropped == 3


def test_wrong_segments_are_kept_as_they_stand_on_request(tmp_path: Path) -> None:
    path = write(tmp_path, {"a": entry((3, 3, "run"), (1, 20, "run"), (9, 10.4, "run"), (9, 10.4, "run"))})
    dataset = read_annotations(path, rules=AnnotationRules(policy=SegmentPolicy("keep", "keep", "keep")))
    kept = [(instance.start, instance.end) for instance in dataset.videos[0].instances]
    assert kept == [(1, 20), (3, 3), (9, 10.4), (9, 10.4)]
    assert (dataset.clipped, dataset.dropped) == (0, 0)


def test_duplicates_are_equal_to_the_millisecond_and_of_one_class(tmp_path: Path) -> None:
    segments = [(1, 2, "run"), (1.0005, 2, "run"), (1, 2.002, "run"), (1, 2, "jump")]
    path = write(tmp_path, {"a": entry(*segments)})
    dataset = read_annotations(path, rules=AnnotationRules(policy=SegmentPolicy(duplicates="drop")))
    assert (len(dataset.videos[0].instances), dataset.repairs.duplicates) == (3, 1)
    with pytest.raises(InputError, match=r"run from 1\.0005 to 2 s is there twice"):
        read_annotations(path, rules=AnnotationRules(policy=SegmentPolicy(duplicates="refuse")))


def test_durations_come_from_a_table_beside_the_file_and_count_for_its_digest(tmp_path: Path) -> None:
    path = write(tmp_path, {"a": {"subset": "x", "annotations": [{"segment": ["1", "2"], "label": "run"}]}})
    with pytest.raises(InputError, match=r"database\.a\.duration: missing"):
        read_annotations(path)
    (tmp_path / "other.csv").write_text("name,size\na,3\n")
    table = tmp_path / "info.csv"
    table.write_text("video,fps,count\na,25,100\n")
    first = read_annotations(path)
    assert (first.videos[0].duration, first.videos[0].frames_per_second, first.videos[0].frames) == (
        4,
        25,
        100,
    )
    table.write_text("video,duration\na,5\n")
    second = read_annotations(path)
    assert second.videos[0].duration == 5
    assert len({first.sha256, second.sha256, hashlib.sha256(path.read_bytes()).hexdigest()}) == 3
    for text in ("video,fps,count\na,0,100\n", "video,duration\na,long\n", "video,duration\na,\n"):
        table.write_text(text)
        with pytest.raises(InputError, match=r"info\.csv: line 2: (fps|duration): "):
            read_annotations(path)


def test_excluded_videos_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, {"a": entry(), "b": entry((3, 2, "wrong"))})
    assert [video.id for video in read_annotations(path, rules=AnnotationRules(exclude={"b"})).videos] == [
        "a"
    ]


BAD_DATABASES: list[tuple[Any, str]] = [
    ([], "database: got []"),
    ({}, "database: holds no video"),
    ({"a": 3}, "database.a: got 3"),
    ({"a": {"duration": 1, "annotations": []}}, "database.a.subset: missing"),
    ({"a": {"subset": "x", "annotations": []}}, "database.a.duration: missing"),
    ({"a": {"subset": "x", "duration": 1}}, "database.a.annotations: missing"),
    ({"a": {"subset": "x", "duration": 1, "annotations": {}}}, "database.a.annotations: got {}"),
    ({"a": entry(subset=3)}, "database.a.subset: got 3"),
    ({"a": entry(subset=" ")}, "database.a.subset: got ' '"),
    ({"a": entry(duration=0)}, "database.a.duration: got 0"),
    ({"a": entry(duration="long")}, "database.a.duration: got 'long'"),
    ({"a": entry(duration=float("nan"))}, "database.a.duration: got nan"),
    ({"a": entry(duration=True)}, "database.a.duration: got True"),
    ({"a": entry(duration=10**400)}, "database.a.duration: got 1000"),
    (
        {"a": entry((1, 2, "x"), (2, 2, "x"))},
        "database.a.annotations[1].segment: start 2 s is not before end 2 s",
    ),
    ({"a": entry((3, 2, "x"))}, "database.a.annotations[0].segment: start 3 s is not before"),
    ({"a": entry((-1, 2, "x"))}, "database.a.annotations[0].segment: [-1, 2] is outside"),
    ({"a": entry((1, 10.6, "x"))}, "database.a.annotations[0].segment: [1, 10.6] is outside"),
    ({"a": entry((10.1, 10.4, "x"))}, "database.a.annotations[0].segment: [10.1, 10.4] is outside"),
    ({"a": entry((1, "inf", "x"))}, "database.a.annotations[0].segment: got 'inf'"),
    ({"a": entry((None, 2, "x"))}, "database.a.annotations[0].segment: got None"),
    ({"a": entry((1, 2, ""))}, "database.a.annotations[0].label: got ''"),
    ({"a": entry((1, 2, 7))}, "database.a.annotations[0].label: got 7"),
    ({"a": {**entry(), "annotations": ["x"]}}, "database.a.annotations[0]: got 'x'"),
    ({"a": {**entry(), "annotations": [{"label": "x"}]}}, "database.a.annotations[0].segment: missing"),
    ({"a": {**entry(), "annotations": [{"segment": [1, 2]}]}}, "database.a.annotations[0].label: missing"),
    ({"a": {**entry(), "annotations": [{"segment": [1], "label": "x"}]}}, "segment: got [1]"),
    ({"a/b": entry()}, "database: video id 'a/b' must not hold path separators"),
    ({"a\\b": entry()}, "must not hold path separators"),
    ({"a..b": entry()}, "database: video id 'a..b' must not hold '..'"),
    ({".a": entry()}, "database: video id '.a' must not begin with a dot"),
    ({"a\nb": entry()}, "database: video id 'a\\nb' must not hold control characters"),
    ({"": entry()}, "database: video id '' is empty"),
    ({"a": {**entry(), "file": "/etc/passwd"}}, "database.a.file: '/etc/passwd' must be relative"),
    ({"a": {**entry(), "file": "../x.mp4"}}, "database.a.file: '../x.mp4' must not hold '..'"),
]


@pytest.mark.parametrize(
    ("database", "message"), BAD_DATABASES, ids=[message for _, message in BAD_DATABASES]
)
def test_a_mistake_is_named_in_one_line(tmp_path: Path, database: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_annotations(write(tmp_path, database))
    assert str(caught.value).startswith("annotations.json: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[]", "top level: got []"),
        (b"{}", "database: missing"),
        (b'{"database": {"a": 1, "a": 2}}', "key 'a' is given twice"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "annotations.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_annotations(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_deep_values_are_shown_short(tmp_path: Path) -> None:
    value: Any = 1
    for _ in range(300):
        value = [value]
    with pytest.raises(InputError) as caught:
        read_annotations(
            write(tmp_path, {"a": {**entry(), "annotations": [{"segment": value, "label": "x"}]}})
        )
    assert len(str(caught.value)) < 200


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        read_annotations(tmp_path / "none.json")
    with pytest.raises(InputError, match="holds no text file of a class"):
        read_annotations(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        read_annotations(write(tmp_path, {"a": entry()}), root=tmp_path / "nowhere")


def test_an_unknown_label_is_refused_where_the_classes_are_given(tmp_path: Path) -> None:
    path = write(tmp_path, {"a": entry((1, 2, "run"))})
    assert read_annotations(path, rules=AnnotationRules(classes=["run", "jump"])).classes == ("jump", "run")
    with pytest.raises(InputError, match=r"annotations\[0\]\.label: got 'run', allowed are jump, walk"):
        read_annotations(path, rules=AnnotationRules(classes=["walk", "jump"]))


def test_an_unknown_subset_lists_the_known_ones(tmp_path: Path) -> None:
    dataset = read_annotations(write(tmp_path, {"a": entry(), "b": entry(subset="testing")}))
    with pytest.raises(
        InputError, match=r"annotations.json: subset: got 'test', known are testing, training"
    ):
        dataset.subset("test")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "v_a.webm", "a.MP4", "v_a.avi", "a.mov"])
def test_a_video_is_found_under_the_usual_names(tmp_path: Path, name: str) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / name).touch()
    dataset = read_annotations(write(tmp_path, {"a": entry()}))
    assert video_path(dataset, dataset.videos[0]) == tmp_path / "videos" / name


def test_a_video_is_found_by_pattern_or_by_its_own_file_name(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a_h264.mp4").touch()
    path = write(tmp_path, {"a": entry(), "b": {**entry(), "file": "clips/a_h264.mp4"}})
    for pattern in ("clips/{id}_h264.mp4", "clips/{id}_h264"):
        dataset = read_annotations(path, rules=AnnotationRules(file_pattern=pattern))
        assert video_path(dataset, dataset.videos[0]).name == "a_h264.mp4"
        assert video_path(dataset, dataset.videos[1]).name == "a_h264.mp4"


def test_a_missing_video_is_named(tmp_path: Path) -> None:
    dataset = read_annotations(write(tmp_path, {"a": entry()}))
    with pytest.raises(InputError, match=r"no file for video 'a': looked for 'a', with or .*\.mp4, "):
        video_path(dataset, dataset.videos[0])


@needs_shared
def test_real_files_are_read() -> None:
    stitched: Dataset = read_annotations(SHARED / "stitched" / "annotations.json")
    assert all(video_path(stitched, video).is_file() for video in stitched.videos)
    thumos = SHARED / "annotations" / "thumos14_actionformer.json"
    with pytest.raises(InputError, match=r"database.video_test_0000270.annotations\[\d+\].segment"):
        read_annotations(thumos)
    mended = read_annotations(thumos, rules=AnnotationRules(policy=SegmentPolicy(outside="drop"))).repairs
    assert (mended.outside, mended.empty, mended.clipped) == (30, 0, 0)
