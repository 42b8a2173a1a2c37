"""The bootstrap's intervals hold the true difference as often as they say; Holm's p are those by hand."""

import numpy as np
import pytest

from bench.report.analysis import bootstrap, differences
from bench.report.analysis.bootstrap import Difference, bootstrap_difference, draws_of, seed_difference
from bench.report.significance import holm, student_p, student_quantile

SIMULATIONS, DRAWS, TRUTH = 300, 800, 1.0


def coverage(seeds, videos, seed_spread, video_spread, sources=1, source_spread=0.0):
    """Return how often the interval holds the truth, for differences that add up over seeds and videos.

    With two sources it is the truth for these two.
    """
    random = np.random.default_rng(7)
    held = 0
    for _ in range(SIMULATIONS):
        weights = random.multinomial(videos, np.full(videos, 1 / videos), size=DRAWS) / videos
        by_video = random.normal(0, video_spread, videos)
        runs = {}
        moves = random.normal(0, source_spread, sources)
        for source in range(sources):
            for seed in range(seeds):
                noise = random.normal(0, 1, videos) + random.normal(0, seed_spread)
                runs[f"{source}", seed] = TRUTH + moves[source] + by_video + noise
        observed = {key: float(values.mean()) for key, values in runs.items()}
        resampled = {key: weights @ values for key, values in runs.items()}
        nothing = dict.fromkeys(runs, np.zeros(DRAWS))
        found = bootstrap_difference(
            resampled, nothing, seed_difference(observed, dict.fromkeys(observed, 0.0))
        )
        truth = TRUTH if sources in (1, 5) else TRUTH + np.mean(moves)
        held += found.low <= truth <= found.high
    return held / SIMULATIONS


@pytest.mark.parametrize(
    ("seeds", "seed_spread", "video_spread"), [(5, 1.0, 1.0), (5, 1.0, 8.0), (3, 1.0, 6.0), (5, 0.3, 10.0)]
)
def test_intervals_hold_the_truth_as_often_as_they_say(seeds, seed_spread, video_spread):
    assert 0.92 <= coverage(seeds, 60, seed_spread, video_spread) <= 0.985


def test_without_the_widening_few_seeds_would_hold_it_too_rarely(monkeypatch):
    monkeypatch.setattr("bench.report.analysis.bootstrap.seed_factor", lambda counts: 1.0)
    assert coverage(3, 60, 1.0, 1.0) < 0.85


def test_intervals_over_two_sources_hold_the_truth_for_these_two(monkeypatch):
    monkeypatch.setattr(f"{__name__}.SIMULATIONS", 100)
    assert 0.92 <= coverage(3, 60, 1.0, 4.0, sources=2, source_spread=5.0) <= 0.99


def test_intervals_over_five_sources_hold_the_truth_for_all(monkeypatch):
    monkeypatch.setattr(f"{__name__}.SIMULATIONS", 100)
    assert 0.92 <= coverage(3, 60, 1.0, 1.0, sources=5, source_spread=1.0) <= 0.99


def test_the_spread_of_sources_widens_the_interval_from_five_on():
    random = np.random.default_rng(1)
    near = [random.normal(1, 0.1, (5, 1)) + np.zeros(4000) for _ in range(5)]
    apart = [each + 2 * (number - 2) for number, each in enumerate(near)]
    assert np.std(draws_of(apart)) > 5 * np.std(draws_of(near))
    assert np.mean(draws_of(apart)) == pytest.approx(np.mean(draws_of(near)), abs=0.1)
    assert np.std(draws_of(apart[:4])) == pytest.approx(np.std(draws_of(near[:4])))


def difference_of(**gains):
    """Return the difference of rows whose runs on each source gain about so much in every resample."""
    random = np.random.default_rng(3)
    noise = random.normal(0, 0.2, (3, 999))
    runs = {(name, seed): gain + noise[seed] for name, gain in gains.items() for seed in range(3)}
    averages = {key: float(value.mean()) for key, value in runs.items()}
    observed = seed_difference(averages, dict.fromkeys(averages, 0.0))
    return bootstrap_difference(runs, dict.fromkeys(runs, np.zeros(999)), observed)


@pytest.mark.parametrize(
    ("gains", "separated"),
    [
        ({"a": 4.0}, True),
        ({"a": 4.0, "b": 3.0}, True),
        ({"a": 4.0, "b": 0.0}, False),
        ({"a": 4.0, "b": -3.0}, False),
        ({"a": -4.0, "b": -3.0}, True),
    ],
)
def test_two_sources_separate_only_if_each_does_in_the_same_direction(gains, separated):
    found = difference_of(**gains)
    assert found.separated is separated
    assert found.mean == pytest.approx(np.mean(list(gains.values())), abs=0.05)
    if len(gains) > 1:
        assert found.over == "seeds, videos, for each of 2 sources"
        assert found.by_source == pytest.approx(gains, abs=0.05)
        assert (
            found.p
            == max(difference_of(a=gain).p if gain * found.mean > 0 else 1.0 for gain in gains.values())
            or 0.0 in gains.values()
        )


def test_five_sources_are_resampled():
    assert difference_of(a=1.0, b=2.0, c=3.0, d=4.0, e=5.0).over == "seeds, videos, sources"


def test_the_mean_is_that_of_the_sources_and_has_no_students_t():
    row = {("a", 0): 1.0, ("a", 1): 1.0, ("a", 2): 1.0, ("a", 3): 1.0, ("b", 0): 5.0, ("b", 1): 7.0}
    found = seed_difference(row, dict.fromkeys(row, 0.0))
    assert (found.mean, found.by_source, found.pairs) == (3.5, {"a": 1.0, "b": 6.0}, 6)
    assert (found.low, found.p, found.interval) == (None, None, "n = 6")


def test_videos_and_seeds_are_drawn_with_seeds_of_their_own():
    assert bootstrap.VIDEOS_SEED != bootstrap.RUNS_SEED
    assert differences.VIDEOS_SEED == bootstrap.VIDEOS_SEED


def test_a_difference_that_every_run_and_video_has_is_separated():
    runs = {("a", seed): np.full(999, 5.0 + seed) for seed in range(5)}
    other = {("a", seed): np.full(999, 3.0 + seed) for seed in range(5)}
    found = bootstrap_difference(runs, other, Difference(2.0, 5))
    assert (found.interval, found.p, found.separated) == ("+2.0 to +2.0", 2 / 1000, True)
    same = bootstrap_difference(runs, runs, Difference(0.0, 5))
    assert (same.p, same.separated) == (1.0, False)


def test_two_seeds_give_no_interval():
    runs = {("a", seed): np.zeros(9) for seed in range(2)}
    assert bootstrap_difference(runs, runs, Difference(0.0, 5)) is None
    assert seed_difference({("a", 0): 1.0, ("a", 1): 3.0}, {("a", 0): 0.0, ("b", 1): 0.0}).interval == "n = 1"
    assert seed_difference({("a", 0): 1.0}, {("b", 0): 1.0}) is None


def test_over_seeds_alone_it_is_students_t():
    row = {("a", seed): value for seed, value in enumerate((3.0, 4.0, 5.0))}
    found = seed_difference(row, dict.fromkeys(row, 0.0))
    assert found.high - found.mean == pytest.approx(student_quantile(0.975, 2) / np.sqrt(3))
    assert found.p == pytest.approx(student_p(4 / np.sqrt(1 / 3), 2))
    assert found.over == "seeds"


def test_p_of_students_t_is_that_of_its_quantile():
    for freedom in (1, 2, 4, 30):
        assert student_p(student_quantile(0.975, freedom), freedom) == pytest.approx(0.05, abs=1e-6)
    assert student_p(0.0, 3) == pytest.approx(1.0)


def test_holm_by_hand():
    # Sorted: 0.005, 0.01, 0.03, 0.04; times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04; none below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
