"""Classes from an external classifier: against the plain reference, by what must hold, and bad files."""

import functools
import gzip
import json
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_kinds import kind, refused

from bench.detection import Segments, classifier_name, evaluate, fuse, read_class_scores
from bench.io.errors import InputError

sys.path.append(str(Path(__file__).parents[2] / "reference"))
import fusion as reference

CLASSES = ("dive", "jump", "run")
unit = st.floats(0, 1, width=32)


@st.composite
def proposals(draw):
    """Segments (n, 2) and scores (n,) of one video."""
    rows = draw(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9), unit), max_size=8))
    segments = np.array([[start, start + length] for start, length, _ in rows], dtype=np.float64).reshape(
        -1, 2
    )
    return segments, np.array([score for *_, score in rows])


@given(proposals(), st.lists(unit, min_size=1, max_size=5), st.integers(1, 7))
def test_equals_the_plain_reference(found, class_scores, top):
    segments, scores = found
    got = fuse(segments, scores, np.array(class_scores), top)
    wanted = reference.fused([tuple(each) for each in segments.tolist()], scores.tolist(), class_scores, top)
    assert [(*s, label) for s, label in zip(got[0].tolist(), got[2].tolist(), strict=True)] == [
        (start, end, label) for start, end, _, label in wanted
    ]
    assert got[1].tolist() == pytest.approx([score for *_, score, _ in wanted], rel=1e-12)


@given(proposals(), st.floats(0.01, 1), st.integers(1, 4))
def test_equal_class_scores_keep_the_order_of_the_proposals(found, value, count):
    segments, scores = found
    got_segments, got_scores, labels = fuse(segments, scores, np.full(count, value), count)
    rank = np.argsort(-scores, kind="stable")
    for label in range(count):
        mine = labels == label
        assert np.array_equal(np.sort(got_scores[mine]), np.sort(np.sqrt(value * scores)))
        best = np.argsort(-got_scores[mine], kind="stable")
        assert np.sqrt(value * scores[rank]) == pytest.approx(got_scores[mine][best])
        assert sorted(map(tuple, got_segments[mine])) == sorted(map(tuple, segments))


def average_map(videos, class_scores, top):
    """The average mAP of proposals with the classes of ``class_scores`` (videos, K)."""
    columns = {name: [] for name in ("video", "label", "start", "end", "score")}
    truth = {name: [] for name in ("video", "label", "start", "end")}
    for number, ((segments, scores), label, instances) in enumerate(videos):
        found, values, labels = fuse(segments, scores, class_scores[number], top)
        for row, value, each in zip(found, values, labels, strict=True):
            for name, item in zip(columns, (number, CLASSES[each], *row, value), strict=True):
                columns[name].append(item)
        for row in instances[0]:
            for name, item in zip(truth, (number, CLASSES[label], *row), strict=True):
                truth[name].append(item)

    def table(content):
        kinds = {"video": str, "label": str}
        return Segments(**{n: np.array(c, dtype=kinds.get(n, np.float64)) for n, c in content.items()})

    return evaluate(table(truth), table(columns), (0.3, 0.5, 0.7)).average


with_instances = proposals().filter(lambda found: len(found[0]))
test_videos = st.lists(st.tuples(proposals(), st.integers(0, 2), with_instances), min_size=1, max_size=4)


@given(test_videos, st.integers(1, 3))
def test_no_classifier_beats_one_that_knows(videos, top):
    """Where a video has one class, wrong classes only add false positives; all wrong finds nothing."""
    videos = [((found[0], 0.01 + found[1]), *rest) for found, *rest in videos]
    labels = [label for _, label, _ in videos]
    perfect = np.eye(len(CLASSES))[labels]
    best = average_map(videos, perfect, 1)
    assert average_map(videos, np.ones_like(perfect), len(CLASSES)) <= best + 1e-12
    assert average_map(videos, 1 - perfect, 1) == 0
    assert average_map(videos, 0.7 * perfect, top) == pytest.approx(best, abs=1e-12)


def scores_file(folder, results=None, classes=CLASSES, key="class", name="scores.json"):
    results = {"a": [0.1, 0.7, 0.2], "v_b": [1, 0, 0], "c": [0, 0, 1]} if results is None else results
    path = folder / name
    content = json.dumps({"results": results, key: list(classes)}).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("key", ["class", "classes"])
@pytest.mark.parametrize("name", ["scores.json", "scores.json.gz"])
def test_scores_come_in_the_data_sets_order_of_classes(name, key, tmp_path):
    path = scores_file(tmp_path, name=name, key=key, classes=("run", "dive", "jump"))
    found = read_class_scores(path, ("a", "b", "v_c"), CLASSES)
    assert {video: row.tolist() for video, row in found.scores.items()} == {
        "a": [0.7, 0.2, 0.1],
        "b": [0.0, 0.0, 1.0],
        "v_c": [0.0, 1.0, 0.0],
    }
    assert found.name == classifier_name(path)
    assert found.name.startswith(f"{name} ")
    assert len(found.name.split()[1]) == 12


def test_the_name_follows_the_content(tmp_path):
    first = classifier_name(scores_file(tmp_path))
    other = classifier_name(scores_file(tmp_path, {"a": [0, 0, 1]}))
    assert first.split()[0] == other.split()[0]
    assert first != other
    odd = tmp_path / "a, b\n|c.json"
    odd.write_text("{}")
    assert classifier_name(odd).startswith("a-b-c.json ")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"results": {"a": [1, 0, 0]}}, r"results: no scores for 2 of 3 videos: b, c$"),
        ({"results": {}}, r"no scores for 3 of 3 videos: a, b, c$"),
        ({"results": [1]}, "field 'results' is .1., allowed is an object"),
        ({"classes": ()}, r"field 'class' is \[\], allowed is a list"),
        ({"classes": (1, 2, 3)}, r"field 'class\[0\]' is 1, allowed is text"),
        ({"classes": ("dive", "jump", "jump")}, "class: 'jump' is there twice"),
        ({"classes": ("dive", "jump", "swim")}, "class: 'run' of the data set is missing"),
        ({"classes": (*CLASSES, "swim", "ski")}, r"'swim' is none of the data set's \(and 1 more\)"),
        ({"key": "labels"}, "field 'class' is None, allowed is a list of the classes' names"),
        (
            {"results": {"a": [[1, 0, 0]], "b": [], "c": []}},
            r"'results.a' is \[\[1, 0, 0\]\], allowed is a list of 3 scores",
        ),
        ({"results": {"a": 7}}, "'results.a' is 7, allowed is a list of 3 scores, one a class"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(changes, words, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        read_class_scores(scores_file(tmp_path, **changes), ("a", "b", "c"), CLASSES)
    assert "\n" not in str(caught.value)
    assert "scores.json" in str(caught.value)


SCORE = kind(
    lambda v: type(v) in (int, float) and v >= 0 and v < math.inf and v < 10**308,
    unit,
    *(-0.1, math.nan, math.inf, True, "1", 10**400, [1]),
)


@given(st.integers(0, 2), SCORE.good, SCORE.bad)
def test_scores_are_finite_numbers_from_0_on(place, good, bad):
    with tempfile.TemporaryDirectory() as folder:
        row = [1, 0, 0]
        row[place] = good
        path = scores_file(Path(folder), {"a": row, "b": [[]]})
        assert read_class_scores(path, ("a",), CLASSES).scores["a"].tolist() == row
        row[place] = bad
        scores_file(Path(folder), {"a": row})
        read = functools.partial(read_class_scores, videos=("a",), classes=CLASSES)
        line = refused(read, path, ("results", "a", place))
        assert line.startswith(f"{path}: ")
        assert line.endswith("allowed is a finite number of 0 or more")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"\x80", b'{"results": {}, "results": {}}', b"[" * 9999]
)
def test_what_is_no_such_file_is_one_line(content, tmp_path):
    path = tmp_path / "scores.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"scores\.json") as caught:
        read_class_scores(path, ("a",), CLASSES)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"--classifier: .* cannot be read"):
        classifier_name(tmp_path / "none.json")
