"""Confidence intervals of shares, of paired changes and of means over seeds, and the word for a change.

Values of prompts are the unit: answers to one prompt are not independent. An interval is never narrower than
what was seen allows: equal values say nothing about the values that were not seen, so they count as one
yes-or-no observation each. `benchmarks/intervals.py` measures the coverage.

Pure Python without numpy, because the command line imports this module.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist, fmean
from typing import Literal

CONFIDENCE_LEVEL = 0.95
MATTERS = 0.05
"""The smallest change that matters, as a fraction of the range of a figure: 5 points of a share."""
Outcome = Literal["higher", "lower", "same", "unclear"]
_Z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE_LEVEL) / 2)
_TAIL = (1 - CONFIDENCE_LEVEL) / 2
_TINY = 1e-9
"""Rounding errors of means of values up to 1 are below this."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95% confidence interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def outcome_of_change(low: float, high: float, *, count: int, most: float = 1.0) -> Outcome:
    """What an interval of a change allows to say.

    Args:
        low: lower end of the interval.
        high: upper end of the interval.
        count: number of values, such as prompts.
        most: the largest possible change; `MATTERS` of it is the smallest change that matters.

    Returns:
        `higher` or `lower` if the interval excludes 0. `same` if it excludes every change that matters and
        there are so many values that at least one of a kind that matters would have been seen (59 for 5%).
        Otherwise `unclear`.
    """
    if low > 0:
        return "higher"
    if high < 0:
        return "lower"
    margin = MATTERS * most
    unseen = 1 - (1 - CONFIDENCE_LEVEL) ** (1 / count) if count else 1.0
    return "same" if -margin < low and high < margin and unseen <= MATTERS else "unclear"


def binomial_interval(hits: float, count: int) -> Interval:
    """The share of hits in independent trials.

    Args:
        hits: number of hits; may be a fraction, such as the mean hits of several answers.
        count: number of trials.

    Raises:
        ValueError: there are no trials.
    """
    if count <= 0:
        raise ValueError("the number of trials must be positive")
    return _share_limits(hits / count, count, count)


def share_interval(shares: Sequence[float]) -> Interval:
    """The mean of shares, one per prompt.

    The number of independent answers lies between the number of prompts and that of all answers. It is
    estimated from the differences between the prompts (Korn and Graubard 1998), with caution for the limit
    away from the nearer edge (0 or 1).

    Args:
        shares: from 0 to 1, one per prompt; not empty.

    Raises:
        ValueError: `shares` is empty.
    """
    if not shares:
        raise ValueError("no values")
    mean = fmean(shares)
    spread = mean * (1 - mean)
    return _share_limits(
        mean, _effective_count(shares, spread), _effective_count(shares, spread, cautious=True)
    )


def change_interval(changes: Sequence[float], *, most: float = 1.0) -> Interval:
    """The mean of paired changes, one per prompt, within ±`most`.

    Tango's score interval (1998), with the effective number of pairs in place of the number of pairs. Where
    the changes differ it agrees with Student's t interval. Where they are equal, each prompt counts as one
    pair that could have changed completely.

    Args:
        changes: after − before, one per prompt; not empty.
        most: the largest possible change.

    Raises:
        ValueError: `changes` is empty.
    """
    if not changes:
        raise ValueError("no values")
    scaled = [change / most for change in changes]
    gain = fmean(max(0.0, change) for change in scaled)
    loss = fmean(max(0.0, -change) for change in scaled)
    count = _effective_count(scaled, gain + loss - (gain - loss) ** 2, cautious=True)
    low, high = _tango(round(gain, 12), round(loss, 12), round(count, 6))
    return Interval(fmean(changes), most * low, most * high)


def difference_interval(
    before: float, before_count: int, after: float, after_count: int
) -> Interval:
    """The difference of two independent shares, after − before, from their intervals (Newcombe 1998).

    Args:
        before: a share, from 0 to 1.
        before_count: number of trials of that share; at least 1.
        after: the other share.
        after_count: number of trials of the other share; at least 1.
    """
    first = binomial_interval(before * before_count, before_count)
    second = binomial_interval(after * after_count, after_count)
    difference = after - before
    return Interval(
        difference,
        difference - math.hypot(after - second.low, first.high - before),
        difference + math.hypot(second.high - after, before - first.low),
    )


def student_interval(values: Sequence[float]) -> Interval:
    """The mean of a few values with Student's t interval (1908), which works with as few as two.

    It assumes that the values are approximately normal. One value, and equal values, say nothing about the
    spread: their interval is unbounded.

    Args:
        values: independent values, such as one per seed; not empty.

    Raises:
        ValueError: `values` is empty.
    """
    if not values:
        raise ValueError("no values")
    mean, count = fmean(values), len(values)
    if max(values) - min(values) <= _TINY * max(1.0, abs(mean)):
        return Interval(mean, -math.inf, math.inf)
    half = t_quantile(1 - _TAIL, count - 1) * math.sqrt(_variance_of_mean(values))
    return Interval(mean, mean - half, mean + half)


@lru_cache(maxsize=1024)
def t_quantile(probability: float, degrees_of_freedom: int) -> float:
    """Quantile of Student's t distribution.

    Args:
        probability: at least 0.5 and below 1.
        degrees_of_freedom: at least 1.
    """
    high = 1.0
    while _t_central_probability(high, degrees_of_freedom) < 2 * probability - 1:
        high *= 2
    return _bisect(
        lambda t: _t_central_probability(t, degrees_of_freedom) >= 2 * probability - 1, 0.0, high
    )


# -- effective number of observations ---------------------------------------------------------


def _effective_count(values: Sequence[float], spread: float, *, cautious: bool = False) -> float:
    """The number of independent yes-or-no observations with the same variance; at least one per value.

    Args:
        values: one per prompt.
        spread: the variance of one observation.
        cautious: whether to allow for the error of the variance, by Student's t. The values that equal the
            most common one count as one, because they say nothing about how far others would be.
    """
    count, variance = len(values), _variance_of_mean(values)
    if variance <= _TINY * _TINY or spread <= _TINY * _TINY:
        return float(count)
    effective = spread / variance
    if cautious:
        rounded = Counter(round(value, 9) for value in values)
        different = count - max(rounded.values())
        freedom = max(1, min(different + 1, count - 1))
        effective *= (_Z / t_quantile(1 - _TAIL, freedom)) ** 2
    return max(float(count), effective)


def _variance_of_mean(values: Sequence[float]) -> float:
    count = len(values)
    if count < 2:
        return 0.0
    mean = fmean(values)
    return sum((value - mean) ** 2 for value in values) / (count - 1) / count


# -- shares -----------------------------------------------------------------------------------


def _share_limits(share: float, count: float, cautious_count: float) -> Interval:
    """A share with Wilson's interval (1927), whose limit at the nearer edge is averaged with the mid-P limit.

    For few hits Wilson's limit is too far from the edge and the mid-P limit (Lancaster 1961) too near. They
    are averaged on the scale of log-odds; the weight of the second falls like the skewness, with the root of
    the hits.

    Args:
        share: from 0 to 1.
        count: effective number of observations for the limit at the nearer edge.
        cautious_count: the same for the other limit.
    """
    share = min(1.0, max(0.0, share))
    if share > 0.5:
        mirrored = _share_limits(1 - share, count, cautious_count)
        return Interval(share, 1 - mirrored.high, 1 - mirrored.low)
    low, high = _wilson(share, min(count, cautious_count))
    if share <= _TINY:
        return Interval(share, 0.0, high)
    if share < 0.5:
        near, _ = _wilson(share, count)
        other = _mid_p_low(round(share, 12), round(count, 6))
        weight = 1 / (2 * math.sqrt(max(1.0, share * count)))
        odds = _odds(near) ** (1 - weight) * _odds(other) ** weight
        low = odds / (1 + odds)
    return Interval(share, low, high)


def _odds(share: float) -> float:
    return share / (1 - share)


def _wilson(share: float, count: float) -> tuple[float, float]:
    center = (share + _Z * _Z / (2 * count)) / (1 + _Z * _Z / count)
    half = (
        _Z
        / (1 + _Z * _Z / count)
        * math.sqrt(share * (1 - share) / count + (_Z / (2 * count)) ** 2)
    )
    return max(0.0, center - half), min(1.0, center + half)


@lru_cache(maxsize=4096)
def _mid_p_low(share: float, count: float) -> float:
    """The share at which more hits, and half of as many hits, have a probability of 2.5%."""
    hits = share * count

    def is_above(chance: float) -> bool:
        as_many = _beta_cumulative(chance, hits, count - hits + 1)
        more = _beta_cumulative(chance, hits + 1, count - hits)
        return (as_many + more) / 2 >= _TAIL

    return _bisect(is_above, 0.0, share)


def _beta_cumulative(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function (Press et al. 1992, 6.4), for a and b above 0."""
    if not 0 < x < 1:
        return float(x >= 1)
    if x >= (a + 1) / (a + b + 2):
        return 1 - _beta_cumulative(1 - x, b, a)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(logarithm + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 1000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + term * d or 1e-300)
            c = 1 + term / c or 1e-300
            fraction *= c * d
        if abs(c * d - 1) < 1e-12:
            break
    return front * fraction


# -- changes ----------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _tango(gain: float, loss: float, count: float) -> tuple[float, float]:
    """The limits of the mean change of `count` pairs with a mean gain and a mean loss."""
    change = gain - loss
    low = _bisect(lambda x: _tango_score(gain, loss, count, x) <= _Z, -1.0, change)
    high = _bisect(lambda x: _tango_score(gain, loss, count, x) < -_Z, change, 1.0)
    return low, high


def _tango_score(gain: float, loss: float, count: float, change: float) -> float:
    """Tango's statistic: how many standard errors the mean is above a supposed change."""
    b = -gain - loss + (2 - gain + loss) * change
    c = -loss * change * (1 - change)
    lost = (math.sqrt(max(0.0, b * b - 8 * c)) - b) / 4
    variance = max(0.0, 2 * lost + change * (1 - change)) / count
    surplus = gain - loss - change
    if variance == 0:
        return math.copysign(math.inf, surplus) if surplus else 0.0
    return surplus / math.sqrt(variance)


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


def _bisect(is_above: Callable[[float], bool], low: float, high: float) -> float:
    """The point between `low` and `high` from which `is_above` is true; `high` if it is nowhere."""
    for _ in range(60):
        middle = (low + high) / 2
        if is_above(middle):
            high = middle
        else:
            low = middle
    return high
