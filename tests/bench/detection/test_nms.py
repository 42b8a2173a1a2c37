"""Suppression against the official results and against the plain reference."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.detection import soft_nms
from bench.io.errors import InputError

TESTS = Path(__file__).parents[2]
sys.path.append(str(TESTS / "reference"))
import nms as reference  # noqa: E402

GOLDEN = json.loads((TESTS / "golden" / "nms.json").read_text())


@pytest.mark.parametrize("name", sorted(GOLDEN["expected"]))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_official_results(name: str, dtype: type) -> None:
    expected = GOLDEN["expected"][name]
    got = soft_nms(
        np.asarray(GOLDEN["input"]["segments"], dtype=dtype),
        np.asarray(GOLDEN["input"]["scores"], dtype=dtype),
        np.asarray(GOLDEN["input"]["labels"]),
        **expected["settings"],
    )
    assert [each.dtype for each in got] == [dtype, dtype, np.int64]
    np.testing.assert_allclose(got[0], expected["segments"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got[1], expected["scores"], rtol=1e-5, atol=1e-6)
    assert got[2].tolist() == expected["labels"]


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 40))
    start = generator.uniform(0, 30, count)
    segments = np.stack((start, start + generator.uniform(0.05, 20, count)), axis=1)
    return segments, generator.uniform(0.001, 1, count), generator.integers(0, 4, count)


@given(
    case=cases(),
    soft=st.booleans(),
    multiclass=st.booleans(),
    threshold=st.sampled_from([0.1, 0.4, 0.7]),
    sigma=st.sampled_from([0.1, 0.5, 0.9]),
    least=st.sampled_from([0.0, 0.001, 0.2]),
    most=st.sampled_from([1, 5, 100]),
    voting=st.sampled_from([0.0, 0.5, 0.9]),
)
@settings(max_examples=150)
def test_equals_the_plain_reference(
    case: tuple[np.ndarray, np.ndarray, np.ndarray],
    soft: bool,
    multiclass: bool,
    threshold: float,
    sigma: float,
    least: float,
    most: int,
    voting: float,
) -> None:
    segments, scores, labels = case
    wanted = reference.suppress(
        [(float(a), float(b)) for a, b in segments],
        scores.tolist(),
        labels.tolist(),
        soft,
        multiclass,
        threshold,
        sigma,
        least,
        most,
        voting,
    )
    got = soft_nms(
        segments,
        scores,
        labels,
        nms_method="soft" if soft else "hard",
        multiclass_nms=multiclass,
        iou_threshold=threshold,
        nms_sigma=sigma,
        min_score=least,
        max_seg_num=most,
        voting_thresh=voting,
    )
    assert got[2].tolist() == [label for _, _, label in wanted]
    np.testing.assert_allclose(got[1], [score for _, score, _ in wanted], rtol=1e-9)
    np.testing.assert_allclose(got[0], np.array([s for s, _, _ in wanted]).reshape(-1, 2), rtol=1e-9)


def test_tensors_come_back_as_tensors_and_inputs_stay() -> None:
    segments = torch.tensor([[0.0, 4.0], [1.0, 5.0], [0.0, 4.0]], requires_grad=True)
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 1, 0], dtype=torch.int32)
    got = soft_nms(segments, scores, labels)
    assert [type(each) for each in got] == [torch.Tensor] * 3
    assert [each.dtype for each in got] == [torch.float32, torch.float32, torch.int32]
    assert got[2].tolist() == [1, 0, 1]
    assert scores.tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_none_and_empty_change_nothing() -> None:
    segments, scores, labels = np.array([[0.0, 2.0], [0.0, 2.0]]), np.array([0.1, 0.9]), np.array([0, 0])
    got = soft_nms(segments, scores, labels, nms_method="none")
    assert got[1].tolist() == [0.1, 0.9]
    empty = soft_nms(np.zeros((0, 2)), np.zeros(0), np.zeros(0, dtype=int))
    assert [len(each) for each in empty] == [0, 0, 0]


def test_equal_scores_are_taken_in_order() -> None:
    segments = np.array([[0.0, 1.0], [5.0, 6.0], [9.0, 10.0]])
    got = soft_nms(segments, np.array([0.5, 0.5, 0.5]), np.array([0, 0, 0]))
    assert got[0].tolist() == segments.tolist()


def test_wrong_input_is_named() -> None:
    segments, scores, labels = np.zeros((2, 2)), np.zeros(2), np.zeros(2, dtype=int)
    with pytest.raises(InputError, match="threshold: no such setting of soft_nms, allowed are iou_threshold"):
        soft_nms(segments, scores, labels, threshold=0.1)
    with pytest.raises(InputError, match="nms_method 'linear': allowed are soft, hard, none"):
        soft_nms(segments, scores, labels, nms_method="linear")
    with pytest.raises(InputError, match="nms_sigma 0"):
        soft_nms(segments, scores, labels, nms_sigma=0)
    with pytest.raises(InputError, match=r"segments of shape \(2,\)"):
        soft_nms(scores, scores, labels)
    with pytest.raises(InputError, match="2 segments with scores"):
        soft_nms(segments, scores[:1], labels)


def test_a_data_set_takes_seconds() -> None:
    generator = np.random.default_rng(0)
    started = time.process_time()
    for count in np.diff(np.linspace(0, 42_000, 213).astype(int)):
        start = generator.uniform(0, 200, count)
        segments = np.stack((start, start + generator.exponential(5, count)), axis=1)
        soft_nms(
            segments, generator.uniform(0.01, 1, count), generator.integers(0, 20, count), max_seg_num=200
        )
    assert time.process_time() - started < 5


@pytest.mark.parametrize("multiclass", [True, False])
@pytest.mark.parametrize("method", ["soft", "hard"])
def test_scores_that_are_no_numbers_are_dropped(method: str, multiclass: bool) -> None:
    segments = np.array([[0.0, 1.0], [5.0, 6.0], [9.0, 10.0], [20.0, 21.0]])
    scores = np.array([np.nan, 0.5, np.nan, 0.7])
    got = soft_nms(
        segments, scores, np.array([0, 1, 1, 2]), nms_method=method, multiclass_nms=multiclass, min_score=0.0
    )
    assert got[1].tolist() == [0.7, 0.5]
    assert got[2].tolist() == [2, 1]
