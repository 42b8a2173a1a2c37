"""Average precision against the plain reference, by hand, and against published detections."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.detection import Segments, evaluate, read_ground_truth, read_submission
from bench.io.errors import InputError

TESTS = Path(__file__).parents[2]
sys.path.append(str(TESTS / "reference"))
import evaluation as reference  # noqa: E402

PUBLISHED = TESTS.parent.parent / "shared" / "data" / "detections"
THRESHOLDS = (0.1, 0.3, 0.5, 0.75, 1.0)


def table(rows: list[tuple[str, str, float, float]], scores: list[float] | None = None) -> Segments:
    video, label, start, end = zip(*rows, strict=True) if rows else ((),) * 4
    return Segments(
        np.array(video, dtype=str),
        np.array(label, dtype=str),
        np.array(start, dtype=float),
        np.array(end, dtype=float),
        None if scores is None else np.array(scores, dtype=float),
    )


@given(
    seed=st.integers(0, 2**32 - 1), truths=st.integers(1, 30), found=st.integers(0, 60), ties=st.booleans()
)
@settings(max_examples=200)
def test_equals_the_plain_reference(seed: int, truths: int, found: int, ties: bool) -> None:
    generator = np.random.default_rng(seed)

    def rows(count: int, videos: int, labels: int) -> list[tuple[str, str, float, float]]:
        start = generator.integers(0, 12, count) if ties else generator.uniform(0, 12, count)
        length = generator.integers(0, 6, count) if ties else generator.uniform(0.1, 6, count)
        return [
            (f"v{video}", f"c{label}", float(a), float(a + b))
            for video, label, a, b in zip(
                generator.integers(0, videos, count),
                generator.integers(0, labels, count),
                start,
                length,
                strict=True,
            )
        ]

    truth, detections = rows(truths, 3, 3), rows(found, 4, 4)
    scores = (generator.integers(0, 9, found) / 8 if ties else generator.uniform(0, 1, found)).tolist()
    result = evaluate(table(truth), table(detections, scores), THRESHOLDS)
    assert result.classes == tuple(sorted({label for _, label, _, _ in truth}))
    for row, label in enumerate(result.classes):
        instances = [(v, a, b) for v, name, a, b in truth if name == label]
        mine = [(v, a, b, s) for (v, name, a, b), s in zip(detections, scores, strict=True) if name == label]
        wanted = [reference.average_precision(instances, mine, each) for each in THRESHOLDS]
        np.testing.assert_allclose(result.ap[row], wanted, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(result.map, result.ap.mean(axis=0))
    assert result.average == pytest.approx(np.mean(result.map))


def test_by_hand() -> None:
    truth = table([("a", "x", 0, 10), ("a", "x", 20, 30), ("b", "x", 0, 10), ("b", "y", 0, 5)])
    found = table(
        [
            ("a", "x", 0, 10),  # right
            ("a", "x", 0, 10),  # wrong: taken
            ("a", "x", 20, 26),  # right at 0.5, wrong at 0.7
            ("c", "x", 0, 10),  # wrong: no such video
            ("b", "z", 0, 10),  # of no class
        ],
        [0.9, 0.8, 0.7, 0.6, 1.0],
    )
    result = evaluate(truth, found, (0.5, 0.7))
    assert result.classes == ("x", "y")
    np.testing.assert_allclose(result.ap, [[1 / 3 + 2 / 9, 1 / 3], [0, 0]])
    assert result.counts.detections_in_unknown_videos == 1
    assert result.counts.detections_of_unknown_labels == 1
    assert result.counts.classes_without_detections == 1
    assert (result.counts.videos, result.counts.instances, result.counts.detections) == (2, 4, 5)


def test_a_detection_falls_back_to_its_second_best_instance() -> None:
    truth = table([("a", "x", 0, 10), ("a", "x", 2, 12)])
    found = table([("a", "x", 0, 10), ("a", "x", 0.5, 10.5)], [0.9, 0.8])
    assert evaluate(truth, found, (0.5,)).average == 1


def test_order_of_rows_does_not_matter_without_ties() -> None:
    generator = np.random.default_rng(0)
    rows = [("a", "x", float(t), float(t + 3)) for t in generator.uniform(0, 50, 40)]
    scores = generator.permutation(40) / 40
    truth = table(rows[::3])
    first = evaluate(truth, table(rows, scores.tolist()), THRESHOLDS)
    order = generator.permutation(40)
    second = evaluate(truth, table([rows[i] for i in order], scores[order].tolist()), THRESHOLDS)
    assert first.map == second.map


def test_wrong_input_is_named() -> None:
    rows = [("a", "x", 0.0, 1.0)]
    with pytest.raises(InputError, match="no instances"):
        evaluate(table([]), table(rows, [1.0]), (0.5,))
    with pytest.raises(InputError, match="no scores"):
        evaluate(table(rows), table(rows), (0.5,))
    with pytest.raises(InputError, match=r"allowed are one or more in \(0, 1\]"):
        evaluate(table(rows), table(rows, [1.0]), (50,))
    with pytest.raises(InputError, match="columns of one length"):
        table(rows, [1.0, 2.0])


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published detections are not beside the repository")
@pytest.mark.parametrize(("name", "file"), [("thumos14", "th14"), ("activitynet12", "an12")])
def test_published_detections(name: str, file: str) -> None:
    expected = json.loads((PUBLISHED / "expected.json").read_text())[name]
    truth = read_ground_truth(PUBLISHED / f"autoloc_{file}_gt.json.gz", expected["subset"])
    found = read_submission(PUBLISHED / f"autoloc_{file}_pred.json.gz")
    started = time.process_time()
    result = evaluate(truth, found, expected["tiou"])
    seconds = time.process_time() - started
    np.testing.assert_allclose(result.map, np.array(expected["map_percent"]) / 100, rtol=0, atol=1e-6)
    assert result.average == pytest.approx(expected["average_percent"] / 100, abs=1e-6)
    assert (len(truth), len(found)) == (expected["instances"], expected["detections"])
    assert seconds < 0.23  # a hundredth of what the official loops take
