"""Student's quantiles against the printed table (NIST e-Handbook of Statistical Methods, 1.3.6.7.2)."""

import pytest

from bench.report.analysis.bootstrap import seed_difference
from bench.report.significance import student_quantile

PRINTED = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 19: 2.093, 30: 2.042, 100: 1.984}


@pytest.mark.parametrize("freedom", PRINTED)
def test_quantiles_are_those_of_the_table(freedom):
    assert student_quantile(0.975, freedom) == pytest.approx(PRINTED[freedom], abs=5e-4)


def test_other_probabilities():
    assert student_quantile(0.5, 7) == pytest.approx(0.0, abs=1e-9)
    assert student_quantile(0.95, 10) == pytest.approx(1.812, abs=5e-4)
    with pytest.raises(ValueError, match="allowed"):
        student_quantile(1.0, 3)


def test_only_seeds_that_both_have_count():
    gain = seed_difference(
        {("", 0): 5.0, ("", 1): 7.0, ("", 8): 99.0}, {("", 0): 4.0, ("", 1): 4.0, ("", 9): 0.0}
    )
    assert (gain.mean, gain.pairs, gain.interval) == (2.0, 2, "n = 2")
    assert seed_difference({("", 0): 1.0}, {("", 1): 1.0}) is None
