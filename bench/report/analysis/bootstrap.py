"""Differences between rows with intervals from a paired hierarchical bootstrap over seeds and test videos.

In a draw, test videos are resampled, the same ones for all runs, and so are the seeds that both rows have. A
difference is the mean over source weights of the mean over their runs of the differences of average mAP on
these videos. Intervals are percentiles; p is two-sided.

Fewer than five sources are not resampled, as that gives no interval of use: the interval is for these
checkpoints, and p is the largest of those of each source alone, in the same direction. From five on, the
sources are resampled, then the seeds of each.

Resampling few seeds gives too narrow intervals: of n seeds, the variance of a resampled mean is (n - 1) / n
of what it should be, and percentiles are those of a normal and not of Student's t. So what a draw's seeds add
to the difference is widened by sqrt(n / (n - 1)) t / z at 95 %, and so is what its resampled sources add.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from bench.detection.segments import Floats
from bench.report.significance import LEAST_PAIRS, student_p, student_quantile

RunKey = tuple[str, int]
"""Source weights and seed."""
DRAWS = 10_000
VIDEOS_SEED, RUNS_SEED = 0, 1
"""Seeds of the draws of videos, and of seeds and sources: other ones, so that the draws are independent."""
LEVEL = 0.05
LEAST_SOURCES = 5
"""Source weights from which on they are resampled."""
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
    """What the interval covers: seeds, videos, sources, or for each of how many sources it is."""
    adjusted: float | None = None
    """p after Holm's correction over the differences of one family (``differences.families``)."""
    by_source: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """The mean difference of each source, by the start of its digest; empty for one source."""

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


def by_sources(keys: Iterable[RunKey]) -> dict[str, list[RunKey]]:
    """Return the runs of each source, both sorted."""
    found: dict[str, list[RunKey]] = {}
    for key in sorted(keys):
        found.setdefault(key[0], []).append(key)
    return found


def seed_difference(row: Mapping[RunKey, float], other: Mapping[RunKey, float]) -> Difference | None:
    """Return the difference, in points; None without a common run.

    It is the mean of the means of the sources. With one source and three seeds or more, it has Student's t
    interval over seeds. Runs of several sources are not independent, so that these have no such interval.
    """
    found = {
        source: [row[key] - other[key] for key in keys]
        for source, keys in by_sources(row.keys() & other.keys()).items()
    }
    if not found:
        return None
    means = {source: statistics.fmean(values) for source, values in found.items()}
    mean, pairs = statistics.fmean(means.values()), sum(map(len, found.values()))
    if len(found) > 1:
        return Difference(mean, pairs, by_source=_shortened(means))
    if pairs < LEAST_PAIRS:
        return Difference(mean, pairs)
    (values,) = found.values()
    error = statistics.stdev(values) / math.sqrt(pairs)
    half = student_quantile(1 - LEVEL / 2, pairs - 1) * error
    p = student_p(mean / error, pairs - 1) if error else float(mean == 0)
    return Difference(mean, pairs, mean - half, mean + half, p, SEEDS)


def _shortened(means: Mapping[str, float]) -> dict[str, float]:
    """Return the means by the first characters of the sources' digests, as many as tell them apart."""
    length = 8
    while len({source[:length] for source in means}) < len(means):
        length += 8
    return {source[:length]: mean for source, mean in means.items()}


def bootstrap_difference(
    row: Mapping[RunKey, Floats], other: Mapping[RunKey, Floats], observed: Difference
) -> Difference | None:
    """Return the difference with its bootstrap interval; None unless each source has three common seeds.

    ``row`` and ``other`` hold (B,) points of average mAP of every run in the resamples of videos, the same
    resamples for all runs; ``observed`` is the difference on the videos themselves (``seed_difference``).
    """
    sources = by_sources(row.keys() & other.keys())
    if not sources or min(map(len, sources.values())) < LEAST_PAIRS:
        return None
    runs = [np.stack([row[k] - other[k] for k in keys]) for keys in sources.values()]
    found = draws_of(runs)
    low, high = np.quantile(found, (LEVEL / 2, 1 - LEVEL / 2))
    resampled = len(sources) == 1 or len(sources) >= LEAST_SOURCES
    alone = [found] if resampled else [draws_of([each]) for each in runs]
    # A direction has the largest p of all sources: each must show it.
    p = min(1.0, *(2 * max(map(share, alone)) for share in (_not_above, _not_below)))
    over = f"{SEEDS}, {VIDEOS}"
    if len(sources) > 1:
        over += f", {SOURCES}" if resampled else f", for each of {len(sources)} sources"
    return dataclasses.replace(observed, low=float(low), high=float(high), p=p, over=over)


def _not_above(draws: Floats) -> float:
    return (int((draws <= 0).sum()) + 1) / (len(draws) + 1)


def _not_below(draws: Floats) -> float:
    return (int((draws >= 0).sum()) + 1) / (len(draws) + 1)


def draws_of(sources: Sequence[Floats]) -> Floats:
    """Return (B,): the difference in every draw, from (seeds, B) differences of each source's runs.

    Fewer than ``LEAST_SOURCES`` sources are in every draw once.
    """
    random = np.random.Generator(np.random.PCG64(RUNS_SEED))
    draws, count = sources[0].shape[1], len(sources)
    means = np.stack([each.mean(axis=0) for each in sources])  # all seeds of each source
    many = count >= LEAST_SOURCES
    chosen = _resampled(random, count, draws) if many else np.ones((count, draws))
    seeds = np.zeros(draws)
    for number, each in enumerate(sources):
        # A source that was drawn twice has seeds of its own each time; their mean has the weight of both.
        for slot in range(count if many else 1):
            weights = _resampled(random, len(each), draws)
            drawn = (weights * each).sum(axis=0) / len(each) - means[number]
            seeds += np.where(chosen[number] > slot, drawn, 0.0) / count
    whole = means.mean(axis=0)
    of_sources = (chosen * means).sum(axis=0) / count - whole
    result: Floats = whole + seed_factor([len(each) for each in sources]) * seeds
    return result + seed_factor([count]) * of_sources if many else result


def _resampled(random: np.random.Generator, count: int, draws: int) -> Floats:
    """Return (count, draws): how often each of ``count`` things is in a sample of as many."""
    return random.multinomial(count, np.full(count, 1 / count), size=draws).T.astype(np.float64)


def seed_factor(counts: Sequence[int]) -> float:
    """Return the factor that widens what resampled things add, for groups with so many of them."""
    freedom = sum(count - 1 for count in counts)
    least = min(counts)
    return math.sqrt(least / (least - 1)) * student_quantile(1 - LEVEL / 2, freedom) / NORMAL_QUANTILE
