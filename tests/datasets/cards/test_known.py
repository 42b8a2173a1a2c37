"""Known data sets: a card, an annotation file as people have it, and a folder of videos."""

import gzip
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from bench.doctor import main as doctor
from bench.io.errors import InputError
from datasets import load_dataset, read_card, video_path
from datasets.annotations.dataset import SegmentPolicy
from datasets.annotations.files import VideoFolder, walk
from datasets.cards.cards import Card, Variant
from datasets.cards.known import check_known, load_known

ANNOTATIONS = Path(__file__).parents[3].parent / "shared" / "data" / "annotations"
needs_shared = pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason="../shared/data is not there")
KEEP = SegmentPolicy("drop", "keep", "drop")


def counts(name: str, file: str) -> dict[str, tuple[int, int]]:
    card = read_card(name)
    dataset = check_known(card, card.variant(name.partition(":")[2]), ANNOTATIONS / file)
    return {
        subset: (len(dataset.subset(subset)), dataset.instance_count(subset)) for subset in dataset.subsets
    }


@needs_shared
def test_every_real_file_is_recognised_as_the_variants_it_can_be() -> None:
    validation = {"validation": (200, 3007)}
    assert counts("thumos14", "thumos14_actionformer.json") == {**validation, "test": (212, 3358)}
    assert counts("thumos14:211", "thumos14_actionformer.json") == {**validation, "test": (211, 3329)}
    assert counts("thumos14:210", "thumos14_actionformer.json") == {**validation, "test": (210, 3311)}
    assert counts("thumos14:210", "thumos14_afsd.json") == {**validation, "test": (210, 3311)}
    assert counts("multithumos", "multithumos.json") == {"validation": (200, 18479), "test": (213, 20204)}
    activitynet = {"training": (9649, 14859), "validation": (4728, 7293)}
    assert counts("activitynet13:4728", "activitynet13.json.gz") == activitynet
    mended = {"training": (9649, 14819), "validation": (4728, 7271)}
    assert counts("activitynet13:4728-mended", "activitynet13.json.gz") == mended


@needs_shared
@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("thumos14:211", "thumos14_afsd.json", r"210 videos in test, thumos14:211 has 211 .*thumos14:210"),
        ("thumos14:213", "thumos14_actionformer.json", "variant 213 needs video_test_0001292"),
        ("activitynet13", "activitynet13.json.gz", "9649 videos in training, activitynet13:4926 has 10024"),
        ("thumos14", "activitynet13.json.gz", "label: got 'High jump', allowed are|0 videos|label: got"),
    ],
)
def test_another_ground_truth_than_the_variant_s_is_refused(name: str, file: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        counts(name, file)
    assert "\n" not in str(caught.value)


@needs_shared
def test_both_versions_of_the_thumos_annotations_agree_on_the_videos_they_share() -> None:
    card = read_card("thumos14")
    files = ("thumos14_actionformer.json", "thumos14_afsd.json")
    first, second = (check_known(card, card.variant("210"), ANNOTATIONS / file) for file in files)
    one, two = ({video.id: video.instances for video in dataset.videos} for dataset in (first, second))
    assert one == two


@needs_shared
def test_every_cliff_diving_is_also_a_diving() -> None:
    card = read_card("thumos14")
    dataset = check_known(card, card.variant(), ANNOTATIONS / "thumos14_actionformer.json")
    for video in dataset.videos:
        spans = {(i.start, i.end) for i in video.instances if i.label == "CliffDiving"}
        assert spans <= {(i.start, i.end) for i in video.instances if i.label == "Diving"}


@needs_shared
def test_the_real_annotations_and_a_folder_of_files_are_a_data_set(tmp_path: Path) -> None:
    content = movie(tmp_path / "one.mp4").read_bytes()
    card = read_card("thumos14")
    path = ANNOTATIONS / "thumos14_actionformer.json"
    for video in check_known(card, card.variant("211"), path).videos:
        file = tmp_path / video.subset / f"{video.id}.mp4"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    digests = set()
    for variant, count in (("211", 211), ("210", 210)):
        dataset = load_dataset(f"thumos14:{variant}", data=tmp_path, annotations=path)
        assert (dataset.variant, len(dataset.subset("test"))) == (variant, count)
        assert all(video_path(dataset, video).is_file() for video in dataset.videos)
        digests.add(dataset.sha256)
    assert len(digests) == 2
    with pytest.raises(InputError, match=r"1 of 412 videos of thumos14:212 have no file: video_test_0000270"):
        load_dataset("thumos14", data=tmp_path, annotations=path)


def tiny_card(**changes: Any) -> Card:
    fields: dict[str, Any] = {
        "name": "tiny",
        "classes": ("Diving", "Shotput"),
        "subsets": {"train": "validation", "test": "test"},
        "aliases": {"train": "validation"},
        "tiou": (0.5,),
        "licence": "none",
        "ignored": ("Ambiguous",),
        "annotation_files": ("tiny.json", "tiny"),
        "default_variant": "2",
        "variants": (Variant("2", "all", KEEP, videos={"test": 1}), Variant("1", "few", KEEP, ("t1",))),
    }
    return Card(**fields | changes)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card = tiny_card()
    monkeypatch.setattr("datasets.cards.known.read_card", lambda name: card)
    return card


def movie(path: Path, frames: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(frames):
            picture = np.zeros((32, 32, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def video_entry(subset: str, *segments: tuple[Any, Any, str], **more: Any) -> dict[str, Any]:
    annotations = [{"segment": [start, end], "label": label} for start, end, label in segments]
    return {"subset": subset, "annotations": annotations, **more}


def saved(folder: Path, database: Any, name: str = "tiny.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"database": database}).encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder / name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    saved(
        tmp_path / "annotations",
        {
            "v1": video_entry("train", ("0.5", "1.0", "Diving"), (0.2, 0.4, "Ambiguous"), (1, 1, "Diving")),
            "t1": video_entry("test", (0.5, 90, "Shotput")),
            "b1": video_entry("background"),
        },
    )
    movie(tmp_path / "validation" / "v1.mp4")
    movie(tmp_path / "videos" / "deep" / "v_t1.MP4")
    return tmp_path


def test_a_folder_of_annotations_and_videos_is_enough(card: Card, folder: Path) -> None:
    dataset = load_known("tiny", folder)
    assert (dataset.name, dataset.variant, dataset.classes) == ("tiny", "2", ("Diving", "Shotput"))
    assert {video.id: video.subset for video in dataset.videos} == {"v1": "validation", "t1": "test"}
    assert [video.duration for video in dataset.videos] == [2.0, 2.0]  # nobody tells but the files
    assert (dataset.repairs.ignored, dataset.repairs.empty) == (1, 1)
    assert dataset.subset("test")[0].instances[0].end == 90
    names = [video_path(dataset, video).name for video in dataset.videos]
    assert names == ["v1.mp4", "v_t1.MP4"]


def test_missing_videos_are_an_error_unless_listed_and_then_in_the_variant(card: Card, folder: Path) -> None:
    (folder / "validation" / "v1.mp4").unlink()
    saved(
        folder / "annotations",
        {"v1": video_entry("train", duration=2), "t1": video_entry("test", duration=2)},
    )
    with pytest.raises(
        InputError, match=r"1 of 2 videos of tiny:2 have no file: v1; list what you cannot get"
    ):
        load_known("tiny", folder)
    (folder / "missing.txt").write_text("v1\n")
    dataset = load_known("tiny", folder)
    assert dataset.missing == ("v1",)
    assert dataset.variant.startswith("2, 1 missing (")
    movie(folder / "validation" / "v1.mp4")
    (folder / "missing.txt").unlink()
    assert load_known("tiny", folder).sha256 != dataset.sha256
    (folder / "missing.txt").write_text("v1\nv9\n")
    with pytest.raises(InputError, match=r"missing\.txt: v9: not in tiny:2"):
        load_known("tiny", folder)


def test_two_different_files_for_one_video_are_an_error(card: Card, folder: Path) -> None:
    movie(folder / "elsewhere" / "v1.mp4", frames=40)
    with pytest.raises(InputError, match="video v1 has files that differ"):
        load_known("tiny", folder)


def test_a_video_without_instances_is_added_where_its_duration_is_known(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    card = tiny_card(unannotated={"t2": "test"}, variants=(Variant("2", "all", KEEP, videos={"test": 2}),))
    monkeypatch.setattr("datasets.cards.known.read_card", lambda name: card)
    with pytest.raises(InputError, match="variant 2 needs t2, which the file lacks"):
        load_known("tiny", folder)
    movie(folder / "t2.mp4", frames=30)
    added = load_known("tiny", folder).subset("test")[1]
    assert (added.id, added.instances) == ("t2", ())
    assert added.duration == pytest.approx(3.0)


def test_annotations_may_lie_elsewhere_and_must_be_somewhere(
    card: Card, folder: Path, tmp_path: Path
) -> None:
    aside = saved(tmp_path / "aside", {"t1": video_entry("test", duration=2)}, "mine.json.gz")
    assert [video.id for video in load_known("tiny", folder, aside).videos] == ["t1"]
    (folder / "annotations" / "tiny.json").unlink()
    with pytest.raises(InputError, match=r"no annotations of tiny: looked for tiny\.json, tiny, here"):
        load_known("tiny", folder)
    with pytest.raises(InputError, match="the folder of its videos is needed"):
        load_known("tiny", None)
    with pytest.raises(InputError, match="is no folder"):
        load_known("tiny", folder / "nowhere")


def test_the_original_text_files_are_read(card: Card, folder: Path) -> None:
    texts = folder / "annotations" / "texts"
    texts.mkdir()
    (texts / "Diving_val.txt").write_text(
        "video_validation_0000051  0.5 1.5\nvideo_validation_0000051 1.6 1.9\n"
    )
    (texts / "Shotput_test.txt").write_text("\nvideo_test_0000004  0.2 1.1 \n")
    (texts / "Ambiguous_test.txt").write_text("video_test_0000004  1.2 1.3\n")
    (texts / "class_list.txt").write_text("1 Diving\n2 Shotput\n")
    movie(folder / "video_validation_0000051.mp4")
    movie(folder / "video_test_0000004.mp4")
    dataset = load_known("tiny", folder, texts)
    assert {video.id: len(video.instances) for video in dataset.videos} == {
        "video_validation_0000051": 2,
        "video_test_0000004": 1,
    }
    assert dataset.subset("test")[0].instances[0].label == "Shotput"
    (texts / "Shotput_test.txt").write_text("video_test_0000004  0.2\n")
    with pytest.raises(InputError, match=r"Shotput_test\.txt: line 1: got .*, 'video start end' is needed"):
        load_known("tiny", folder, texts)


def test_numbered_actions_are_named_by_the_card_or_a_class_list(tmp_path: Path) -> None:
    card = tiny_card(classes=(), numbered=("Diving",), variants=(Variant("2", "all", KEEP),))
    content = {"t1": {"subset": "test", "duration": 5, "actions": [[1, 0.5, 1], [2, 1, 2], [2, 2, 2]]}}
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(content))
    assert check_known(card, card.variant(), path).classes == ("Diving", "class 2")
    (tmp_path / "class_list.txt").write_text("1 Diving\n2 Jump\n")
    assert check_known(card, card.variant(), path).classes == ("Diving", "Jump")
    content["t1"]["actions"] = [["x", 1, 2]]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"'t1'\.actions\[0\]: got .*class number, start, end"):
        check_known(card, card.variant(), path)


def test_links_that_lead_back_do_not_hang_the_search(tmp_path: Path) -> None:
    movie(tmp_path / "a" / "x.mp4")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert list(walk(tmp_path)) == ["a/x.mp4"]
    assert VideoFolder(tmp_path).find("x") == tmp_path / "a" / "x.mp4"
    assert VideoFolder(tmp_path).find("y") is None


def test_unknown_variants_and_misplaced_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got 'thumos14:209', known are thumos14:213, thumos14:212"):
        load_dataset("thumos14:209", data=tmp_path)
    with pytest.raises(InputError, match=r"looked for thumos14\.json"):
        load_dataset("thumos14:211", data=tmp_path)
    with pytest.raises(InputError, match="miniature has no variants"):
        load_dataset("miniature:2")
    with pytest.raises(
        InputError, match=r"annotations: got x\.json, the data set is an annotation file already"
    ):
        load_dataset("y.json", annotations=Path("x.json"))


def test_the_doctor_leaves_out_what_is_declared_missing_as_a_run_does(
    monkeypatch: pytest.MonkeyPatch, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tiny_card(variants=(Variant("2", "all", KEEP, videos={"test": 1}),))
    monkeypatch.setattr("datasets.cards.cards.read_card", lambda name: card)
    monkeypatch.setattr("datasets.cards.known.read_card", lambda name: card)
    videos = {
        "v1": video_entry("train", (0.5, 1, "Diving"), duration=2),
        "v2": video_entry("train", (0.5, 1, "Diving"), duration=2),
        "t1": video_entry("test", (0.5, 1, "Diving"), duration=2),
    }
    saved(folder / "annotations", videos)
    own = "training_subset=validation,evaluation_subset=test"
    words = ["--card", "tiny", "--data", str(folder), "--cache", str(folder / "facts"), "--protocol", own]
    assert doctor(words) == 2
    assert "error: missing\n  v2 no file" in capsys.readouterr().out
    with pytest.raises(InputError, match="1 of 3 videos of tiny:2 have no file: v2"):
        load_known("tiny", folder)
    (folder / "missing.txt").write_text("v2\n")
    movie(folder / "videos" / "deep" / "v_t1.MP4", frames=21)  # no copy of the other
    assert doctor(words) == 0
    assert "note: declared missing\n  1 videos are listed in missing.txt: left out" in capsys.readouterr().out
    assert len(load_known("tiny", folder).videos) == 2
