"""What players and ELAN open, and which files the videos of a folder become."""

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import ROOT

from bench.io.errors import InputError
from bench.predict.inputs import check_reader, jobs
from bench.predict.overlay import draw_strip
from bench.predict.players import as_eaf, as_srt, player_offset
from bench.predict.segments import Segment
from datasets.video.frames import probe

sys.path.insert(0, str(ROOT / "tests" / "datasets"))
from movies import write

SEGMENTS = [
    Segment(61.5, 3725.25, "fall", 0.9),
    Segment(1.0, 4.0, "walk", 0.8),
    Segment(3.2, 5.0, "walk", 0.7),
    Segment(1.0, 1.0, 'a < "b" & 名前 --> c', 0.6),
]


def test_subtitles_are_in_order_of_time_and_on_the_players_clock():
    text = as_srt(SEGMENTS, 1.5).decode()
    assert text == (
        '1\n00:00:02,500 --> 00:00:02,501\na ‹ "b" & 名前 --› c (0.60)\n\n'
        "2\n00:00:02,500 --> 00:00:05,500\nwalk (0.80)\n\n"
        "3\n00:00:04,700 --> 00:00:06,500\nwalk (0.70)\n\n"
        "4\n00:01:03,000 --> 01:02:06,750\nfall (0.90)\n"
    )
    assert as_srt(SEGMENTS[1:2], -2.0).startswith(b"1\n00:00:00,000 --> 00:00:02,000\n")
    assert as_srt([], 0.0) == b""


def test_labels_are_no_tags_of_subtitles():
    text = as_srt([Segment(0.0, 1.0, r"<i>a</i> {\an8}b", 0.5)], 0.0).decode()
    assert text.splitlines()[2] == r"‹i›a‹/i› (\an8)b (0.50)"
    assert not set("<>{}") & set(text.replace("-->", ""))


def read_eaf(content):
    """Return (label, start, end) by tier, after checks of what the schema EAF 3.0 requires."""
    document = ElementTree.fromstring(content)
    assert document.tag == "ANNOTATION_DOCUMENT"
    assert {"AUTHOR", "DATE", "VERSION"} <= {*document.keys()}
    tags = [element.tag for element in document]
    kinds = ["HEADER", "TIME_ORDER", *["TIER"] * tags.count("TIER"), "LINGUISTIC_TYPE"]
    assert tags == kinds
    media = document.find("HEADER/MEDIA_DESCRIPTOR")
    assert {"MEDIA_URL", "MIME_TYPE"} <= {*media.keys()}
    moments = {slot.get("TIME_SLOT_ID"): int(slot.get("TIME_VALUE")) for slot in document.find("TIME_ORDER")}
    assert list(moments.values()) == sorted(set(moments.values()))
    types = {each.get("LINGUISTIC_TYPE_ID") for each in document.iter("LINGUISTIC_TYPE")}
    tiers = {}
    identifiers = list(moments)
    for tier in document.iter("TIER"):
        assert tier.get("LINGUISTIC_TYPE_REF") in types
        assert tier.get("TIER_ID") not in tiers
        found = tiers[tier.get("TIER_ID")] = []
        for each in tier.iter("ALIGNABLE_ANNOTATION"):
            identifiers.append(each.get("ANNOTATION_ID"))
            span = (moments[each.get("TIME_SLOT_REF1")], moments[each.get("TIME_SLOT_REF2")])
            assert not found or found[-1][2] <= span[0] < span[1]
            found.append((each.find("ANNOTATION_VALUE").text, *span))
    assert len(set(identifiers)) == len(identifiers)
    assert all(re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", each) for each in identifiers)
    return tiers, media


def test_elan_gets_a_tier_a_label_and_another_where_segments_overlap(tmp_path):
    video = tmp_path / "my videos" / "a b.mp4"
    content = as_eaf(SEGMENTS, 1.5, video, tmp_path / "out")
    tiers, media = read_eaf(content)
    assert tiers == {
        'a < "b" & 名前 --> c': [('a < "b" & 名前 --> c', 2500, 2501)],
        "fall": [("fall", 63000, 3726750)],
        "walk": [("walk", 2500, 5500)],
        "walk (2)": [("walk", 4700, 6500)],
    }
    assert media.get("MEDIA_URL") == video.as_uri()
    assert media.get("RELATIVE_MEDIA_URL") == "../my%20videos/a%20b.mp4"
    assert media.get("MIME_TYPE") == "video/mp4"
    assert content == as_eaf(SEGMENTS, 1.5, video, tmp_path / "out")
    assert read_eaf(as_eaf([], 0.0, video, tmp_path))[0] == {}
    assert b'RELATIVE_MEDIA_URL="./b.mkv"' in as_eaf([], 0.0, tmp_path / "b.mkv", tmp_path)


@given(
    st.lists(
        st.builds(
            lambda start, length, label: Segment(start, start + length, label, 0.5),
            st.floats(0, 9),
            st.floats(0, 5),
            st.sampled_from(("a", "a (2)", "b\x00", "b\x01")),
        )
    )
)
def test_no_two_annotations_of_a_tier_overlap(segments):
    tiers, _ = read_eaf(as_eaf(segments, 0.0, Path("/v.mp4"), Path("/")))
    for name, found in tiers.items():
        assert all(name in (label, f"{label} ({name[-2:-1]})") for label, _, _ in found)


def test_the_offset_is_that_of_the_players_clock(tmp_path):
    plain = write(tmp_path / "plain.mp4")
    late = write(tmp_path / "late.mp4", milliseconds=range(1500, 7500, 100))
    stream = write(tmp_path / "stream.ts", milliseconds=range(1500, 7500, 100))
    assert player_offset(plain, probe(plain)) == 0
    assert player_offset(late, probe(late)) == pytest.approx(1.5)
    assert probe(stream).offset_seconds > 1
    assert player_offset(stream, probe(stream)) == 0


def test_labels_in_other_scripts_are_drawn_on_frames_without_a_warning():
    strip = draw_strip([Segment(0, 1, "名前", 0.5), Segment(0, 1, "नाम", 0.4)], [0, 1], (240, 320))
    assert strip.shape == (32, 320, 3)
    assert (strip == 255).any()


def outputs(given_paths, out):
    return {job.video.name: job.output("json").relative_to(out).as_posix() for job in jobs(given_paths, out)}


def test_a_folder_is_searched_and_mirrored(tmp_path):
    data, out = tmp_path / "data", tmp_path / "data" / "found"
    for name in (
        "a.mp4",
        "sub/a.mp4",
        "sub/deep/b.M4V",
        "c.ts",
        "c.mkv",
        ".h/d.mp4",
        "notes.txt",
        "found/e.mp4",
    ):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).touch()
    found = [
        (job.video.relative_to(data).as_posix(), job.output("csv").relative_to(out).as_posix())
        for job in jobs([data], out)
    ]
    assert sorted(found) == [
        ("a.mp4", "a.csv"),
        ("c.mkv", "c.mkv.csv"),
        ("c.ts", "c.ts.csv"),
        ("sub/a.mp4", "sub/a.csv"),
        ("sub/deep/b.M4V", "sub/deep/b.csv"),
    ]
    (data / "empty").mkdir()
    assert outputs([data / "a.mp4", data / "a.mp4", data / "c.ts"], out) == {
        "a.mp4": "a.json",
        "c.ts": "c.json",
    }
    # A file that is given by name needs no known suffix.
    assert outputs([data / "notes.txt"], out) == {"notes.txt": "notes.json"}
    with pytest.raises(InputError, match=r"a\.mp4 and .*sub/a\.mp4: both would be written to .*a\.mp4\.json"):
        jobs([data / "a.mp4", data / "sub" / "a.mp4"], out)
    with pytest.raises(InputError, match="the folder holds no video; looked for"):
        jobs([data / "empty"], out)


def filled(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def taken(folder, out, fps):
    return sorted(
        (job.video.relative_to(folder).as_posix(), job.output("csv").relative_to(out).as_posix())
        for job in jobs([folder], out, fps)
    )


def test_a_folder_of_videos_is_no_folder_of_images(tmp_path):
    folder = filled(tmp_path / "data", "a.mp4", "cover_1.jpg", "sub/b.mp4", "sub/b_1.png")
    assert (
        taken(folder, tmp_path, 10)
        == taken(folder, tmp_path, None)
        == [
            ("a.mp4", "a.csv"),
            ("sub/b.mp4", "sub/b.csv"),
        ]
    )


def test_folders_of_images_below_a_folder_are_videos_if_their_rate_is_given(tmp_path):
    folder = filled(
        tmp_path / "data",
        *("a.mp4", "x/b/img_1.jpg", "x/b/img_2.jpg", "c/1.png", "notes/cover.jpg", ".h/d/1.jpg"),
        *("out/a1.png", "out/x/b1.png"),
    )
    out = folder / "out"
    assert taken(folder, out, 10) == [("a.mp4", "a.csv"), ("c", "c.csv"), ("x/b", "x/b.csv")]
    assert taken(folder, out, None) == [("a.mp4", "a.csv")]
    assert taken(folder / "x", out, 10) == [("b", "b.csv")]
    assert [job.video for job in jobs([folder / "c"], out, 10)] == [folder / "c"]
    with pytest.raises(InputError, match=r"the folders of images in it are videos if --fps is given$"):
        jobs([folder / "x"], out)
    with pytest.raises(InputError, match=r"its images are a video if --fps is given$"):
        jobs([folder / "c"], out)


@pytest.mark.parametrize("reader", ["decord", "torchcodec"])
def test_a_reader_of_files_reads_no_folder_of_images(tmp_path, reader):
    todo = jobs([filled(tmp_path / "a", "1.jpg")], tmp_path / "out", 10)
    for usable in (None, "auto", "pyav"):
        check_reader(todo, usable)
    with pytest.raises(InputError, match=f"/a: --reader {reader} reads no folders of images; --reader auto"):
        check_reader(todo, reader)
