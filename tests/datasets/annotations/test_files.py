"""The file of a video: which names are found, in which order, and what two files for one id are."""

from pathlib import Path

import pytest

from bench.io.errors import InputError
from datasets.annotations.files import SUFFIXES, VideoFolder


def fill(root: Path, *names: str, content: str = "x") -> VideoFolder:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return VideoFolder(root)


def found(root: Path, video: str, file: str | None = None, pattern: str = "{id}") -> str | None:
    path = VideoFolder(root, pattern).find(video, file)
    return None if path is None else path.relative_to(root).as_posix()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_is_found_in_any_case_at_any_depth(tmp_path: Path, suffix: str) -> None:
    fill(tmp_path, f"one/two/a{suffix.upper()}", f"v_b{suffix}", f"c{suffix.title()}", "d.txt", "e.mp4.part")
    assert found(tmp_path, "a") == f"one/two/a{suffix.upper()}"
    assert found(tmp_path, "b") == f"v_b{suffix}"
    assert found(tmp_path, "v_a") == f"one/two/a{suffix.upper()}"
    assert found(tmp_path, f"c{suffix}") == f"c{suffix.title()}"
    assert found(tmp_path, "d") is None
    assert found(tmp_path, "e") is None


def test_names_are_tried_in_the_stated_order(tmp_path: Path) -> None:
    fill(tmp_path, "a", "labels/b", "sub/v_a.avi")
    assert found(tmp_path, "a") == "sub/v_a.avi"  # a name without a suffix comes last
    assert found(tmp_path, "b") == "labels/b"
    fill(tmp_path, "sub/a.mkv", content="other")
    assert found(tmp_path, "a") == "sub/a.mkv"
    fill(tmp_path, "a.mp4.mkv", "deep/a.mp4", content="third")
    assert found(tmp_path, "a.mp4") == "deep/a.mp4"


def test_the_field_file_and_the_pattern_come_before_the_id(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4", "x/a_h264.mp4", "x/clips/other.MP4")
    assert found(tmp_path, "a", "clips/other.mp4") == "x/clips/other.MP4"
    assert found(tmp_path, "a", "none.mp4") is None
    assert found(tmp_path, "a", pattern="{id}_h264") == "x/a_h264.mp4"
    assert found(tmp_path, "a", pattern="x/{id}_h264.mp4") == "x/a_h264.mp4"
    assert found(tmp_path, "a", pattern="y/{id}_h264.mp4") == "a.mp4"


def test_a_file_that_is_named_needs_no_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "x/a.mp4")
    monkeypatch.setattr("datasets.annotations.files.os.walk", None)
    assert found(tmp_path, "b", "x/a.mp4") == "x/a.mp4"


@pytest.mark.parametrize("name", ["{0}/{0}.mp4", "x/{0}/img_1.jpg"], ids=["files", "folders of images"])
def test_the_folder_is_listed_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    listings = []
    walk = os.walk
    monkeypatch.setattr(
        "datasets.annotations.files.os.walk", lambda *a, **b: listings.append(a) or walk(*a, **b)
    )
    folder = fill(tmp_path, *(name.format(number) for number in range(20)))
    assert all(folder.find(str(number)) for number in range(20))
    assert folder.find("none") is None
    assert len(listings) == 1


def test_equal_files_for_one_id_are_one_and_others_an_error(tmp_path: Path) -> None:
    fill(tmp_path, "b/a.mp4", "a/deeper/a.mp4", "a/a.mp4", "a/a.mkv")
    (tmp_path / "linked.mp4").symlink_to(tmp_path / "a" / "a.mp4")
    assert found(tmp_path, "a") == "a/a.mkv"
    fill(tmp_path, "a/a.mkv", content="y")  # of the same size
    with pytest.raises(
        InputError, match=r"video a has files that differ: a/a\.mkv, a/a\.mp4, b/a\.mp4, a/de"
    ):
        found(tmp_path, "a")
    assert found(tmp_path, "a", "a/a.mkv") == "a/a.mkv"


def test_hidden_folders_and_files_are_left_out(tmp_path: Path) -> None:
    fill(tmp_path, ".trash/a.mp4", "sub/._a.mp4", ".a.mp4")
    assert found(tmp_path, "a") is None


def test_folders_of_images_are_found_at_any_depth(tmp_path: Path) -> None:
    fill(
        tmp_path, "train/x/a/img_1.jpg", "test/v_b/0001.png", "c/img_1.jpg", "x/notes/cover.jpg", ".h/d/1.jpg"
    )
    assert found(tmp_path, "a") == "train/x/a"
    assert found(tmp_path, "b") == "test/v_b"
    assert found(tmp_path, "v_c") == "c"
    assert found(tmp_path, "notes") is None  # no numbered image
    assert found(tmp_path, "d") is None
    assert found(tmp_path, "other", "x/a") == "train/x/a"
    assert found(tmp_path, "other", "y/a") is None
    fill(tmp_path, "test/a/img_1.jpg")
    assert found(tmp_path, "a") == "test/a"  # equal content
    fill(tmp_path, "test/a/img_2.jpg")
    with pytest.raises(InputError, match=r"video a has files that differ: test/a, train/x/a; leave one"):
        found(tmp_path, "a")
    fill(tmp_path, "deep/er/a.mp4")
    assert found(tmp_path, "a") == "deep/er/a.mp4"  # a file comes first
