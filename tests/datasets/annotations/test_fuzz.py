"""A handful of what `python -m tests.fuzz` does by the thousand, and properties of any document."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2]))
from fuzz import sandbox, text_files, video_files

from bench.detection import Segments, evaluate, read_submission, write_submission
from bench.io.errors import InputError
from datasets.annotations.dataset import SegmentPolicy
from datasets.annotations.entries import AnnotationRules
from datasets.annotations.reader import read_annotations

QUICK = settings(
    max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
LABELS = st.sampled_from(["run", "jump"])
TIMES = st.floats(0, 100) | st.floats(0, 100).map(str)
SEGMENTS = st.fixed_dictionaries({"segment": st.lists(TIMES, min_size=2, max_size=2), "label": LABELS})
ENTRIES = st.fixed_dictionaries(
    {
        "subset": st.sampled_from(["training", "testing"]),
        "duration": st.floats(0.1, 100),
        "annotations": st.lists(SEGMENTS, max_size=4),
    }
)
IDS = st.text("abcXYZ019-_", min_size=1, max_size=11)


def test_mutated_text_files_are_read_or_refused(tmp_path: Path) -> None:
    found = text_files.fuzz(tmp_path, 200, seed=1)
    assert found.failures == []
    assert sum(found.files.values()) == 200
    for kind in ("annotations", "submission", "numbered", "text", "table", "scores"):
        assert any(each.startswith(kind) and each.endswith(": refused") for each in found.outcomes)
    assert any(each.endswith(": read") for each in found.outcomes)
    assert found.most_bytes < 2**28


def test_mutated_videos_are_read_or_refused(tmp_path: Path) -> None:
    found = video_files.fuzz(tmp_path, 10, seed=1)
    assert found.failures == []
    assert sum(found.outcomes.values()) == 10


def test_the_fuzz_sees_what_goes_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside"

    def careless(path: Path) -> None:
        outside.write_text("x")
        raise KeyError("traceback")

    (tmp_path / "inside").mkdir()
    monkeypatch.setattr(text_files, "READERS", dict.fromkeys(text_files.READERS, (careless,)))
    found = text_files.fuzz(tmp_path / "inside", 1, seed=0)
    assert any("KeyError" in failure for failure in found.failures)
    assert any(str(outside) in failure for failure in found.failures)
    assert (found.tracebacks, found.strays) == (1, 1)


@pytest.mark.parametrize(
    ("action", "counted"),
    [
        (lambda path: os.system("true"), "runs"),
        (lambda path: (path.parents[2] / "link").symlink_to(path), "strays"),
        (lambda path: (path.parents[2] / "folder").mkdir(), "strays"),
        (lambda path: time.sleep(5), "hangs"),
    ],
)
def test_the_fuzz_sees_what_is_run_written_or_never_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: Callable[[Path], object], counted: str
) -> None:
    (tmp_path / "inside").mkdir()
    monkeypatch.setattr(sandbox, "SECONDS", 0.2)

    def careless(path: Path) -> None:
        action(path)

    with sandbox.sandbox(tmp_path / "inside") as box:
        assert box.read("any", careless, tmp_path / "inside" / "file") == "failed"
    assert getattr(box.found, counted) == 1


@QUICK
@given(document=DOCUMENTS)
def test_any_json_is_read_or_refused_in_a_line(tmp_path: Path, document: Any) -> None:
    path = tmp_path / "any.json"
    for content in (document, {"database": document}, {"database": {"a": document}}, {"results": document}):
        path.write_bytes(json.dumps(content).encode("utf-8", "surrogatepass"))
        for read in (read_annotations, read_submission):
            try:
                read(path)
            except InputError as error:
                assert len(str(error).splitlines()) == 1  # noqa: PT017 (it may also be read)


@QUICK
@given(database=st.dictionaries(IDS, ENTRIES, min_size=1, max_size=4))
def test_no_video_and_no_instance_is_lost_without_a_count(tmp_path: Path, database: Any) -> None:
    path = tmp_path / "any.json"
    path.write_text(json.dumps({"database": database}))
    total = sum(len(entry["annotations"]) for entry in database.values())
    dataset = read_annotations(path, rules=AnnotationRules(policy=SegmentPolicy("drop", "drop", "drop")))
    assert [video.id for video in dataset.videos] == list(database)
    kept = [instance for video in dataset.videos for instance in video.instances]
    assert len(kept) + dataset.dropped == total
    for video in dataset.videos:
        assert all(0 <= i.start < i.end <= video.duration for i in video.instances)
        assert list(video.instances) == sorted(video.instances, key=lambda i: (i.start, i.end, i.label))
    every = read_annotations(path, rules=AnnotationRules(policy=SegmentPolicy("keep", "keep", "keep")))
    backwards = sum(
        float(a["segment"][0]) > float(a["segment"][1])
        for entry in database.values()
        for a in entry["annotations"]
    )
    assert sum(len(video.instances) for video in every.videos) == total - backwards == total - every.dropped


@QUICK
@given(rows=st.lists(st.tuples(IDS, LABELS, st.floats(0, 50), st.floats(0, 9), st.floats(0, 1)), max_size=12))
def test_a_submission_comes_back_as_it_was_written(tmp_path: Path, rows: Any) -> None:
    import numpy as np

    video, label, start, length, score = zip(*rows, strict=True) if rows else ((),) * 5
    first = np.array(start, dtype=float)
    table = Segments(
        np.array(video, dtype=str),
        np.array(label, dtype=str),
        first,
        first + np.array(length, dtype=float),
        np.array(score, dtype=float),
    )
    path = tmp_path / "submission.json.gz"
    write_submission(path, table)
    back = read_submission(path)
    assert back.score is not None
    assert table.score is not None
    columns = (back.video, back.label, back.start, back.end, back.score)
    expected = (table.video, table.label, table.start, table.end, table.score)
    assert sorted(zip(*(c.tolist() for c in columns), strict=True)) == sorted(
        zip(*(c.tolist() for c in expected), strict=True)
    )
    if len(table):
        assert 0 <= evaluate(table, back, (0.5,)).average <= 1
