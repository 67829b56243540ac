"""Statistics for reported figures: means, confidence intervals, correlations and trends.

Pure Python without numpy, because the command line imports this module.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

RESAMPLES = 4_000
CONFIDENCE_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its confidence interval (95% by default)."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def bootstrap(
    values: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = CONFIDENCE_LEVEL,
) -> Interval:
    """The mean of some values with a percentile bootstrap interval (Efron 1979).

    For few values the plain interval is too narrow, so it is expanded by sqrt(n / (n − 1)) and by the ratio
    of Student's t quantile to the normal quantile (Hesterberg 2015).

    Args:
        values: independent values, such as one difference per prompt; not empty.
        seed: seed of the resampling; the same seed gives the same interval.
        resamples: number of bootstrap samples.
        level: confidence level of the interval.

    Raises:
        ValueError: `values` is empty.
    """
    if not values:
        raise ValueError("no values")
    mean, count = fmean(values), len(values)
    if count == 1:
        return Interval(mean, -math.inf, math.inf)
    rng = random.Random(seed)
    means = sorted(fmean(rng.choices(values, k=count)) for _ in range(resamples))
    tail = (1 - level) / 2
    expansion = math.sqrt(count / (count - 1))
    expansion *= t_quantile(1 - tail, count - 1) / NormalDist().inv_cdf(1 - tail)
    low, high = (means[round(share * (resamples - 1))] for share in (tail, 1 - tail))
    return Interval(mean, mean + (low - mean) * expansion, mean + (high - mean) * expansion)


def paired_bootstrap(
    before: Sequence[float], after: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """The mean difference of pairs, after − before, with a paired bootstrap interval.

    Args:
        before: one value per pair, such as the share of compliant answers to a prompt.
        after: the second value of each pair, in the same order.
        seed: seed of the resampling.
        resamples: number of bootstrap samples.
    """
    differences = [new - old for old, new in zip(before, after, strict=True)]
    return bootstrap(differences, seed=seed, resamples=resamples)


def student_interval(values: Sequence[float], *, level: float = CONFIDENCE_LEVEL) -> Interval:
    """The mean of a few values with Student's t interval (1908), which works with as few as two.

    A bootstrap of three values has only ten different means. This interval assumes that the values are
    approximately normal.

    Args:
        values: independent values, such as one per seed; not empty.
        level: confidence level of the interval.

    Raises:
        ValueError: `values` is empty.
    """
    if not values:
        raise ValueError("no values")
    mean, count = fmean(values), len(values)
    if count == 1:
        return Interval(mean, -math.inf, math.inf)
    error = math.sqrt(sum((x - mean) ** 2 for x in values) / (count - 1) / count)
    half = t_quantile(1 - (1 - level) / 2, count - 1) * error
    return Interval(mean, mean - half, mean + half)


def t_quantile(probability: float, degrees_of_freedom: int) -> float:
    """Quantile of Student's t distribution.

    Args:
        probability: at least 0.5 and below 1.
        degrees_of_freedom: at least 1.
    """
    low, high = 0.0, 1.0
    while _t_central_probability(high, degrees_of_freedom) < 2 * probability - 1:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        if _t_central_probability(middle, degrees_of_freedom) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return high


def _t_central_probability(t: float, degrees_of_freedom: int) -> float:
    """Probability between −t and t, as a finite sum (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(degrees_of_freedom))
    cosine = math.cos(angle)
    odd = degrees_of_freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for power in range(1 + odd, degrees_of_freedom, 2):
        total += term
        term *= cosine * cosine * power / (power + 1)
    inner = math.sin(angle) * total
    return 2 / math.pi * (angle + inner) if odd else inner


def wilson(hits: int, total: int, *, level: float = CONFIDENCE_LEVEL) -> Interval:
    """A proportion with Wilson's score interval (1927).

    Args:
        hits: number of successes.
        total: number of trials.
        level: confidence level of the interval.

    Raises:
        ValueError: `total` is not positive.
    """
    if total <= 0:
        raise ValueError("the number of trials must be positive")
    z = NormalDist().inv_cdf(1 - (1 - level) / 2)
    share = hits / total
    center = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = (
        z
        / (1 + z * z / total)
        * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    )
    return Interval(share, max(0.0, center - half), min(1.0, center + half))


def pearson(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's correlation; None for fewer than three pairs, or if one sequence is constant.

    Raises:
        ValueError: the sequences have different lengths.
    """
    if len(first) != len(second):
        raise ValueError("the sequences have different lengths")
    if len(first) < 3:
        return None
    a, b = _centered(first), _centered(second)
    scale = math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / scale if scale > 0 else None


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation; ties share their mean rank. None in the same cases as `pearson`."""
    return pearson(ranks(first), ranks(second))


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value, starting at 1 for the smallest; equal values share their mean rank."""
    order = sorted(range(len(values)), key=values.__getitem__)
    result = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for index in order[start : end + 1]:
            result[index] = (start + end) / 2 + 1
        start = end + 1
    return result


def slope(values: Sequence[float]) -> float:
    """The least-squares slope of values at 0, 1, 2, …, in units of the values per step.

    Returns 0 for fewer than two values.
    """
    count = len(values)
    if count < 2:
        return 0.0
    middle, mean = (count - 1) / 2, fmean(values)
    variation = sum((x - middle) ** 2 for x in range(count))
    return sum((x - middle) * (y - mean) for x, y in enumerate(values)) / variation


def mean_of_known(values: Iterable[float | None], minimum: int = 1) -> float | None:
    """The mean of the known values; None if fewer than `minimum` values are known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) >= max(1, minimum) else None


def _centered(values: Sequence[float]) -> list[float]:
    mean = fmean(values)
    return [value - mean for value in values]


def sample_deviation(values: Sequence[float]) -> float:
    """Standard deviation of the population that a few normal values come from, without bias.

    The root of the sample variance is too small for few values, by 11% for three; it is divided by its
    expectation c4(n) (Holtzman 1950).

    Args:
        values: at least two values.
    """
    count = len(values)
    c4 = math.sqrt(2 / (count - 1)) * math.exp(
        math.lgamma(count / 2) - math.lgamma((count - 1) / 2)
    )
    return stdev(values) / c4
