"""Differences between rows with intervals from a paired hierarchical bootstrap over seeds and test videos.

In a draw, test videos are resampled, the same ones for all runs, and so are the seeds that both rows have
(for several source weights: the sources, then the seeds of each). A difference is the mean over these runs of
the differences of average mAP on these videos. Intervals are percentiles; p is two-sided.

Resampling few seeds gives too narrow intervals: of n seeds, the variance of a resampled mean is (n - 1) / n
of what it should be, and percentiles are those of a normal and not of Student's t. So what a draw's seeds add
to the difference is widened by sqrt(n / (n - 1)) t / z at 95 %. What its sources add is widened by
sqrt(k / (k - 1)) alone: with two sources, t would leave no interval of use.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from bench.detection.segments import Floats
from bench.report.significance import LEAST_PAIRS, student_p, student_quantile

RunKey = tuple[str, int]
"""Source weights and seed."""
DRAWS = 10_000
SEED = 0
LEVEL = 0.05
NORMAL_QUANTILE = statistics.NormalDist().inv_cdf(1 - LEVEL / 2)
SEEDS, VIDEOS, SOURCES = "seeds", "videos", "sources"


@dataclasses.dataclass(frozen=True)
class Difference:
    """The mean difference of two rows in points of average mAP, its 95 % interval and p."""

    mean: float
    pairs: int
    """Runs that both rows have: pairs of source weights and seed."""
    low: float | None = None
    """Ends of the interval; None for fewer than three seeds."""
    high: float | None = None
    p: float | None = None
    over: str = ""
    """What the interval covers: seeds, videos, sources."""
    adjusted: float | None = None
    """p after Holm's correction over the rows of the table."""

    @property
    def interval(self) -> str:
        """The interval as text, or the number of pairs if there is none."""
        if self.low is None or self.high is None:
            return f"n = {self.pairs}"
        return f"{self.low:+.1f} to {self.high:+.1f}"

    @property
    def separated(self) -> bool | None:
        """Whether the difference is other than zero at 5 %, after correction; None if it is not known."""
        p = self.p if self.adjusted is None else self.adjusted
        return None if p is None else p < LEVEL


def seed_difference(row: Mapping[RunKey, float], other: Mapping[RunKey, float]) -> Difference | None:
    """Return the difference, in points, with Student's t interval over runs; None without a common run."""
    found = [row[key] - other[key] for key in sorted(row.keys() & other.keys())]
    if not found:
        return None
    mean, pairs = statistics.fmean(found), len(found)
    if pairs < LEAST_PAIRS:
        return Difference(mean, pairs)
    error = statistics.stdev(found) / math.sqrt(pairs)
    half = student_quantile(1 - LEVEL / 2, pairs - 1) * error
    p = student_p(mean / error, pairs - 1) if error else float(mean == 0)
    return Difference(mean, pairs, mean - half, mean + half, p, SEEDS)


def bootstrap_difference(
    row: Mapping[RunKey, Floats], other: Mapping[RunKey, Floats], mean: float
) -> Difference | None:
    """Return the difference with its bootstrap interval; None unless each source has three common seeds.

    ``row`` and ``other`` hold (B,) points of average mAP of every run in the resamples of videos, the same
    resamples for all runs; ``mean`` is the difference on the videos themselves.
    """
    sources: dict[str, list[RunKey]] = {}
    for key in sorted(row.keys() & other.keys()):
        sources.setdefault(key[0], []).append(key)
    if not sources or min(map(len, sources.values())) < LEAST_PAIRS:
        return None
    found = draws_of([np.stack([row[k] - other[k] for k in keys]) for keys in sources.values()])
    low, high = np.quantile(found, (LEVEL / 2, 1 - LEVEL / 2))
    least = min(int((found <= 0).sum()), int((found >= 0).sum()))
    p = min(1.0, 2 * (least + 1) / (len(found) + 1))
    over = [SEEDS, VIDEOS, *([SOURCES] if len(sources) > 1 else [])]
    pairs = sum(map(len, sources.values()))
    return Difference(mean, pairs, float(low), float(high), p, ", ".join(over))


def draws_of(sources: Sequence[Floats]) -> Floats:
    """Return (B,): the difference in every draw, from (seeds, B) differences of each source's runs."""
    random = np.random.Generator(np.random.PCG64(SEED))
    draws = sources[0].shape[1]
    means = np.stack([each.mean(axis=0) for each in sources])  # all seeds of each source
    chosen = _resampled(random, len(sources), draws)
    seeds = np.zeros(draws)
    for number, each in enumerate(sources):
        # A source that was drawn twice has seeds of its own each time; their mean has the weight of both.
        for slot in range(len(sources)):
            weights = _resampled(random, len(each), draws)
            drawn = (weights * each).sum(axis=0) / len(each) - means[number]
            seeds += np.where(chosen[number] > slot, drawn, 0.0) / len(sources)
    whole = means.mean(axis=0)
    of_sources = (chosen * means).sum(axis=0) / len(sources) - whole
    count = len(sources)
    wider = math.sqrt(count / (count - 1)) if count > 1 else 1.0
    result: Floats = whole + wider * of_sources + seed_factor([len(each) for each in sources]) * seeds
    return result


def _resampled(random: np.random.Generator, count: int, draws: int) -> Floats:
    """Return (count, draws): how often each of ``count`` things is in a sample of as many."""
    return random.multinomial(count, np.full(count, 1 / count), size=draws).T.astype(np.float64)


def seed_factor(counts: Sequence[int]) -> float:
    """Return the factor that widens what seeds add, for sources with so many seeds."""
    freedom = sum(count - 1 for count in counts)
    least = min(counts)
    return math.sqrt(least / (least - 1)) * student_quantile(1 - LEVEL / 2, freedom) / NORMAL_QUANTILE
