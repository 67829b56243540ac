"""The few statistics that figures of a run are given with: intervals, and how two rows of numbers agree.

Pure Python, no numpy: the command line imports this.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

RESAMPLES = 4_000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and where it lies with a confidence of 95 %, unless said otherwise."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside of it."""
        return self.low > 0 or self.high < 0


def bootstrap(
    values: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """The mean of some values with a percentile bootstrap interval (Efron 1979).

    Of few values the plain interval is too narrow; it is expanded by sqrt(n / (n − 1)) and by Student's t
    over the normal quantile (Hesterberg 2015).

    Args:
        values: independent of each other, such as one difference a prompt; not empty.
        seed: of the resampling, so that the interval is the same every time.
        resamples: how many samples are drawn.
        level: the share of cases that the interval should cover.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values")
    mean, count = fmean(values), len(values)
    if count == 1:
        return Interval(mean, -math.inf, math.inf)
    chance = random.Random(seed)
    means = sorted(fmean(chance.choices(values, k=count)) for _ in range(resamples))
    tail = (1 - level) / 2
    wider = math.sqrt(count / (count - 1))
    wider *= t_quantile(1 - tail, count - 1) / NormalDist().inv_cdf(1 - tail)
    low, high = (means[round(share * (resamples - 1))] for share in (tail, 1 - tail))
    return Interval(mean, mean + (low - mean) * wider, mean + (high - mean) * wider)


def paired(
    before: Sequence[float], after: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """The mean difference of pairs, after − before, with a paired bootstrap interval.

    Args:
        before: one figure a pair, such as a prompt's share of answers that comply.
        after: the same, in the same order.
        seed: of the resampling.
        resamples: how many samples are drawn.
    """
    differences = [new - old for old, new in zip(before, after, strict=True)]
    return bootstrap(differences, seed=seed, resamples=resamples)


def student(values: Sequence[float], *, level: float = LEVEL) -> Interval:
    """The mean of a few values with Student's t interval (1908), which holds of as few as two.

    A bootstrap of three values sees ten different means; this one trusts in their being about normal.

    Args:
        values: independent of each other, such as one figure a seed; not empty.
        level: the share of cases that the interval should cover.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values")
    mean, count = fmean(values), len(values)
    if count == 1:
        return Interval(mean, -math.inf, math.inf)
    error = math.sqrt(sum((x - mean) ** 2 for x in values) / (count - 1) / count)
    half = t_quantile(1 - (1 - level) / 2, count - 1) * error
    return Interval(mean, mean - half, mean + half)


def t_quantile(share: float, freedom: int) -> float:
    """The value that so large a share of Student's t distribution lies below.

    Args:
        share: from 0.5 to below 1.
        freedom: degrees of freedom, at least 1.
    """
    low, high = 0.0, 1.0
    while _t_within(high, freedom) < 2 * share - 1:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        if _t_within(middle, freedom) < 2 * share - 1:
            low = middle
        else:
            high = middle
    return high


def _t_within(t: float, freedom: int) -> float:
    """The share between −t and t, as a finite sum (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(freedom))
    cosine = math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for power in range(1 + odd, freedom, 2):
        total += term
        term *= cosine * cosine * power / (power + 1)
    inner = math.sin(angle) * total
    return 2 / math.pi * (angle + inner) if odd else inner


def wilson(hits: int, of: int, *, level: float = LEVEL) -> Interval:
    """A share with Wilson's score interval (1927).

    Raises:
        ValueError: it is a share of nothing.
    """
    if of <= 0:
        raise ValueError("a share of nothing")
    z = NormalDist().inv_cdf(1 - (1 - level) / 2)
    share = hits / of
    centre = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def pearson(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Pearson's correlation; None of fewer than three pairs, or where one row does not vary."""
    if len(one) != len(other):
        raise ValueError("rows of different lengths")
    if len(one) < 3:
        return None
    a, b = _centred(one), _centred(other)
    scale = math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / scale if scale > 0 else None


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties sharing their mean rank; None as `pearson` has it."""
    return pearson(ranks(one), ranks(other))


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value from 1, smallest first; equal ones share their mean rank."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in order[start : end + 1]:
            found[place] = (start + end) / 2 + 1
        start = end + 1
    return found


def slope(values: Sequence[float]) -> float:
    """The least-squares slope of values at 0, 1, 2, …; 0 of fewer than two.

    Robust enough for a trend over a window of steps; units of the values per step.
    """
    count = len(values)
    if count < 2:
        return 0.0
    middle, mean = (count - 1) / 2, fmean(values)
    over = sum((x - middle) ** 2 for x in range(count))
    return sum((x - middle) * (y - mean) for x, y in enumerate(values)) / over


def mean_of(values: Sequence[float | None], least: int = 1) -> float | None:
    """The mean of those that are known; None where fewer than `least` are."""
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) >= max(1, least) else None


def _centred(values: Sequence[float]) -> list[float]:
    mean = fmean(values)
    return [value - mean for value in values]
