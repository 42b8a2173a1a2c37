"""Any data set written in any tool's format is read back equal, and so is what the doctor converts."""

import json
import random
import sys
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.io.errors import InputError
from datasets.annotations.dataset import Dataset
from datasets.annotations.formats import read_file
from datasets.annotations.imports.database import ImportOptions
from datasets.annotations.reader import read_annotations
from datasets.checks.conversion import convert

sys.path.append(str(Path(__file__).parent))
import samples

QUICK = settings(
    max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
RATE = 25
DURATION = 400.0
NAMES = st.text("abcXYZ019-_", min_size=1, max_size=11).filter(lambda name: not name.startswith("."))
LABELS = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=12).filter(
    lambda text: text.strip() == text and text.isprintable() and "," not in text
)
SEGMENTS = st.tuples(st.integers(0, 7500), st.integers(1, 2000), LABELS)
"""Start and length in frames of 40 ms."""
VIDEOS = st.dictionaries(NAMES, st.lists(SEGMENTS, max_size=5), min_size=1, max_size=4)
Segments = dict[str, list[tuple[int, int, str]]]


def mmaction(videos: Segments) -> str:
    def annotations(segments: list[tuple[int, int, str]]) -> list[dict[str, Any]]:
        return [{"segment": [s / RATE, (s + n) / RATE], "label": label} for s, n, label in segments]

    entries = {v: {"duration_second": DURATION, "annotations": annotations(s)} for v, s in videos.items()}
    return json.dumps(entries)


def via(videos: Segments) -> str:
    metadata = {
        f"{video}_{index}": {"vid": video, "z": [s / RATE, (s + n) / RATE], "xy": [], "av": {"1": label}}
        for video, segments in videos.items()
        for index, (s, n, label) in enumerate(segments)
    }
    attribute = {"1": {"aname": "action", "anchor_id": "FILE1_Z2_XY0", "type": 1, "options": {}}}
    files = {video: {"fid": video, "fname": f"{video}.mp4", "type": 4} for video in videos}
    view = {video: {"fid_list": [video]} for video in videos}
    return json.dumps({"metadata": metadata, "attribute": attribute, "file": files, "view": view})


def label_studio(videos: Segments) -> str:
    def result(start: int, length: int, label: str) -> dict[str, Any]:
        value = {"ranges": [{"start": start + 1, "end": start + length}], "timelinelabels": [label]}
        return {"type": "timelinelabels", "from_name": "action", "to_name": "video", "value": value}

    return json.dumps(
        [
            {
                "data": {"video": f"/films/{v}.mp4"},
                "annotations": [{"result": [result(*s) for s in segments]}],
            }
            for v, segments in videos.items()
        ]
    )


def table(videos: Segments) -> str:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    def clock(frame: int) -> str:
        ms = frame * 1000 // RATE
        return f"{ms // 3600000}:{ms // 60000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"

    lines = ["video,start,end,label"]
    for video, segments in videos.items():
        lines += [f"{video},,,"]
        lines += [f"{video},{clock(s)},{(s + n) / RATE},{cell(label)}" for s, n, label in segments]
    return "\r\n".join(lines) + "\r\n"


def elan(videos: Segments) -> str:
    video, segments = next(iter(videos.items()))
    slots, annotations = "", ""
    for index, (start, length, label) in enumerate(segments):
        for name, frame in ((f"b{index}", start), (f"e{index}", start + length)):
            slots += f'<TIME_SLOT TIME_SLOT_ID="{name}" TIME_VALUE="{frame * 1000 // RATE}"/>'
        annotations += (
            f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{index}" TIME_SLOT_REF1="b{index}" '
            f'TIME_SLOT_REF2="e{index}"><ANNOTATION_VALUE>{escape(label)}</ANNOTATION_VALUE>'
            "</ALIGNABLE_ANNOTATION></ANNOTATION>"
        )
    media = f'<MEDIA_DESCRIPTOR MEDIA_URL="file:///{video}.mp4" MIME_TYPE="video/mp4"/>'
    return (
        f'<ANNOTATION_DOCUMENT><HEADER TIME_UNITS="milliseconds">{media}</HEADER>'
        f"<TIME_ORDER>{slots}</TIME_ORDER>"
        f'<TIER TIER_ID="action">{annotations}</TIER></ANNOTATION_DOCUMENT>'
    )


def cvat(videos: Segments) -> str:
    video, segments = next(iter(videos.items()))
    tracks = "".join(
        f'<track id="{index}" label={quoteattr(label)}><box frame="{start}" outside="0"/>'
        f'<box frame="{start + length}" outside="1"/></track>'
        for index, (start, length, label) in enumerate(segments)
    )
    return f"<annotations><meta><task><source>{video}.mp4</source></task></meta>{tracks}</annotations>"


WRITERS = {
    "mmaction": mmaction,
    "via": via,
    "label-studio": label_studio,
    "table": table,
    "elan": elan,
    "cvat": cvat,
}
ONE_VIDEO = ("elan", "cvat")


def same(dataset: Dataset) -> tuple[Any, ...]:
    return dataset.classes, dataset.videos, dataset.repairs


@pytest.mark.parametrize("kind", WRITERS)
@QUICK
@given(videos=VIDEOS)
def test_read_back_and_converted_equal(tmp_path: Path, kind: str, videos: Segments) -> None:
    if kind in ONE_VIDEO:
        videos = dict([next(iter(videos.items()))])
    source, target = tmp_path / "data", tmp_path / "converted.json"
    source.write_text(WRITERS[kind](videos), encoding="utf-8", newline="")
    rows = "".join(f"{video},{DURATION}\n" for video in videos)
    (tmp_path / "durations.csv").write_text(f"video,duration\n{rows}")
    options = ImportOptions(fps=RATE, subset="training")
    file = read_file(source, options=options)
    assert file.kind == kind
    found = {
        video: [(*entry["segment"], entry["label"]) for entry in each["annotations"]]
        for video, each in file.database.items()
    }
    wanted = {v: [(s / RATE, (s + n) / RATE, label) for s, n, label in each] for v, each in videos.items()}
    assert found == wanted
    lines = convert(source, target, options)
    instances = sum(map(len, videos.values()))
    assert lines[-1] == f"{target}: {len(videos)} videos, {instances} instances, read as {kind}"
    back = read_annotations(target)
    assert {video.id: video.duration for video in back.videos} == dict.fromkeys(videos, DURATION)
    assert json.loads(target.read_text(encoding="utf-8"))["version"] == "VERSION 1.3"
    if kind not in ("cvat", "label-studio"):  # these need a rate
        default = ImportOptions(fps=RATE)
        convert(source, target, default)
        assert same(read_annotations(source)) == same(read_annotations(target))


def mutated(content: bytes, generator: random.Random) -> bytes:
    """Return content with a few bytes changed, a part cut out or doubled, or another value of JSON."""
    data = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(data) or 1)
        match generator.randint(0, 4):
            case 0:
                data[at : at + 1] = bytes([generator.randrange(256)])
            case 1:
                del data[at : at + generator.randint(1, 40)]
            case 2:
                data[at:at] = data[at : at + generator.randint(1, 40)]
            case 3:
                other = generator.choice([b"null", b"[]", b"{}", b"-1", b"1e999", b'"x"', b"NaN", b"\xff"])
                data[at : at + generator.randint(0, 12)] = other
            case 4:
                del data[at:]
    return bytes(data)


def replaced(value: Any, generator: random.Random) -> Any:
    """Return a JSON value with one of its parts replaced by a value of another kind."""
    if isinstance(value, dict) and value and generator.random() < 0.85:
        key = generator.choice(list(value))
        return {**value, key: replaced(value[key], generator)}
    if isinstance(value, list) and value and generator.random() < 0.85:
        at = generator.randrange(len(value))
        return [*value[:at], replaced(value[at], generator), *value[at + 1 :]]
    return generator.choice([None, [], {}, [[]], [{}], {"a": 1}, "x", "", "\n", -1, 10**400, 0.5, True])


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_mutated_files_are_read_or_refused_in_a_line(tmp_path: Path, name: str) -> None:
    content = samples.SAMPLES[name][0]
    generator = random.Random(name)
    path = tmp_path / name
    outcomes = {"read": 0, "refused": 0}
    for number in range(300):
        if name.endswith(".json") and number % 2:
            path.write_text(json.dumps(replaced(json.loads(content), generator)))
        else:
            path.write_bytes(mutated(content, generator))
        for options in (ImportOptions(), ImportOptions(fps=10, subset="a", tiers=("action",))):
            try:
                read_file(path, options=options)
                convert(path, tmp_path / "out.json", options)
                read_annotations(path)
                outcomes["read"] += 1
            except InputError as error:
                assert len(str(error).splitlines()) == 1  # noqa: PT017 (it may also be read)
                outcomes["refused"] += 1
    assert outcomes["refused"] > 50
