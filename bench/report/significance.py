"""Student's t distribution, and Holm's correction of several tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

LEAST_PAIRS = 3


def student_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t distribution, for a probability in [0.5, 1).

    The density is integrated by Simpson's rule and the integral is inverted by bisection. The substitution
    t = sqrt(n) tan(u) makes the domain finite; the density is then proportional to cos(u)^(n-1).
    """
    if not 0.5 <= probability < 1 or freedom < 1:
        raise ValueError(f"probability {probability}, freedom {freedom}: allowed are [0.5, 1) and 1 or more")
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _below(middle, freedom) < probability else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _below(angle: float, freedom: int) -> float:
    """Return the probability of a t below sqrt(freedom) tan(angle), for an angle of at least 0."""
    constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    weights = np.ones(2001)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    density = np.cos(np.linspace(0, angle, 2001)) ** (freedom - 1)
    return 0.5 + constant * angle / 6000 * float(density @ weights)


def student_p(t: float, freedom: int) -> float:
    """Return the two-sided p of a value of Student's t."""
    return max(0.0, 2 - 2 * _below(math.atan(abs(t) / math.sqrt(freedom)), freedom))


def holm(p: Sequence[float]) -> list[float]:
    """Return the p of a family of tests, adjusted by Holm's step-down method (Holm, 1979)."""
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda each: p[each])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = highest
    return adjusted
