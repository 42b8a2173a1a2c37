"""The mAP of resampled videos equals the evaluator's on copies of the videos."""

import numpy as np
import pytest

from bench.detection.evaluation import evaluate
from bench.detection.resampling import match_run, resampled_map
from bench.detection.segments import Segments

TIOU = (0.3, 0.5, 0.7)
VIDEOS = tuple(f"v{number}" for number in (3, 1, 4, 0, 5, 9))
"""Not sorted; the last one has no instance."""


def table(video, label, start, end, score=None):
    return Segments(np.array(video, str), np.array(label, str), np.array(start), np.array(end), score)


def made(seed, rounded=True):
    """Return ground truth and detections near it, with equal scores and a class in one video only."""
    random = np.random.default_rng(seed)
    truth = [
        (v, str(random.integers(3)), s := random.uniform(0, 50), s + random.uniform(1, 6))
        for v in VIDEOS[:-1]
        for _ in range(4)
    ]
    truth.append((VIDEOS[0], "rare", 1.0, 5.0))
    found = []
    for video, label, start, end in truth:
        for _ in range(3):
            moved = random.normal(0, 1, 2)
            score = random.uniform()
            found.append((video, label, start + moved[0], max(end + moved[1], start + moved[0]), score))
    found += [(v, str(random.integers(4)), 3.0, 9.0, random.uniform()) for v in VIDEOS for _ in range(3)]
    columns = list(zip(*found, strict=True))
    score = np.round(columns[4], 1 if rounded else 9)
    return table(*zip(*truth, strict=True)), table(*columns[:4], score)


def copied(rows, multiplicities):
    """Return the rows with every video repeated; copies of a row follow it."""
    kept = [
        (f"{video} copy {copy}", index)
        for index, video in enumerate(rows.video.tolist())
        for copy in range(multiplicities[VIDEOS.index(video)])
    ]
    at = np.array([index for _, index in kept], int)
    score = None if rows.score is None else rows.score[at]
    return Segments(np.array([name for name, _ in kept]), rows.label[at], rows.start[at], rows.end[at], score)


@pytest.mark.parametrize("rounded", [True, False])
def test_resamples_are_what_the_evaluator_gives(rounded):
    truth, found = made(1, rounded)
    draws = np.random.default_rng(2).multinomial(len(VIDEOS), [1 / len(VIDEOS)] * len(VIDEOS), size=40)
    values = resampled_map(match_run(truth, found, TIOU, VIDEOS), draws)
    assert values.std() > 0.01
    for multiplicities, value in zip(draws, values, strict=True):
        expected = evaluate(copied(truth, multiplicities), copied(found, multiplicities), TIOU).average
        assert value == pytest.approx(expected, abs=1e-12)


def test_every_video_once_is_the_evaluation_itself():
    truth, found = made(3)
    once = np.ones((1, len(VIDEOS)), int)
    (value,) = resampled_map(match_run(truth, found, TIOU, VIDEOS), once)
    assert value == pytest.approx(evaluate(truth, found, TIOU).average, abs=1e-12)


def test_blocks_of_draws_make_no_difference(monkeypatch):
    truth, found = made(4)
    draws = np.random.default_rng(5).multinomial(len(VIDEOS), [1 / len(VIDEOS)] * len(VIDEOS), size=7)
    run = match_run(truth, found, TIOU, VIDEOS)
    whole = resampled_map(run, draws)
    monkeypatch.setattr("bench.detection.resampling.DRAWS_AT_ONCE", 3)
    assert resampled_map(run, draws) == pytest.approx(whole, abs=1e-12)


def test_a_resample_without_instances_has_no_map():
    truth, found = made(6)
    only_empty = np.eye(len(VIDEOS), dtype=int)[-1:] * len(VIDEOS)
    assert resampled_map(match_run(truth, found, TIOU, VIDEOS), only_empty).tolist() == [0.0]
