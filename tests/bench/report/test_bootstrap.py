"""The bootstrap's intervals hold the true difference as often as they say; Holm's p are those by hand."""

import numpy as np
import pytest

from bench.report.analysis.bootstrap import bootstrap_difference, draws_of, seed_difference
from bench.report.significance import holm, student_p, student_quantile

SIMULATIONS, DRAWS, TRUTH = 300, 800, 1.0


def coverage(seeds, videos, seed_spread, video_spread, sources=1, source_spread=0.0):
    """Return how often the interval holds the truth, for differences that add up over seeds and videos."""
    random = np.random.default_rng(7)
    held = 0
    for _ in range(SIMULATIONS):
        weights = random.multinomial(videos, np.full(videos, 1 / videos), size=DRAWS) / videos
        by_video = random.normal(0, video_spread, videos)
        runs = {}
        for source in range(sources):
            moved = random.normal(0, source_spread)
            for seed in range(seeds):
                noise = random.normal(0, 1, videos)
                runs[f"{source}", seed] = TRUTH + moved + random.normal(0, seed_spread) + by_video + noise
        mean = float(np.mean(list(runs.values())))
        resampled = {key: weights @ values for key, values in runs.items()}
        nothing = dict.fromkeys(runs, np.zeros(DRAWS))
        found = bootstrap_difference(resampled, nothing, mean)
        held += found.low <= TRUTH <= found.high
    return held / SIMULATIONS


@pytest.mark.parametrize(
    ("seeds", "seed_spread", "video_spread"), [(5, 1.0, 1.0), (5, 1.0, 8.0), (3, 1.0, 6.0), (5, 0.3, 10.0)]
)
def test_intervals_hold_the_truth_as_often_as_they_say(seeds, seed_spread, video_spread):
    assert 0.92 <= coverage(seeds, 60, seed_spread, video_spread) <= 0.985


def test_without_the_widening_few_seeds_would_hold_it_too_rarely(monkeypatch):
    monkeypatch.setattr("bench.report.analysis.bootstrap.seed_factor", lambda counts: 1.0)
    assert coverage(3, 60, 1.0, 1.0) < 0.85


def test_the_spread_of_sources_widens_the_interval():
    random = np.random.default_rng(1)
    near = [random.normal(1, 0.1, (5, 1)) + np.zeros(4000) for _ in range(2)]
    apart = [near[0] - 2, near[1] + 2]
    assert np.std(draws_of(apart)) > 5 * np.std(draws_of(near))
    assert np.mean(draws_of(apart)) == pytest.approx(np.mean(draws_of(near)), abs=0.1)


def test_a_difference_that_every_run_and_video_has_is_separated():
    runs = {("a", seed): np.full(999, 5.0 + seed) for seed in range(5)}
    other = {("a", seed): np.full(999, 3.0 + seed) for seed in range(5)}
    found = bootstrap_difference(runs, other, 2.0)
    assert (found.interval, found.p, found.separated) == ("+2.0 to +2.0", 2 / 1000, True)
    same = bootstrap_difference(runs, runs, 0.0)
    assert (same.p, same.separated) == (1.0, False)


def test_two_seeds_give_no_interval():
    runs = {("a", seed): np.zeros(9) for seed in range(2)}
    assert bootstrap_difference(runs, runs, 0.0) is None
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
