"""Statistics for reported figures: means, correlations and trends.

Pure Python without numpy, because the command line imports this module.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

MIN_CORRELATED_PAIRS = 8
"""Fewest pairs for a correlation that is shown: of fewer, chance alone often gives one above 0.7."""

MIN_FITTED_POINTS = 20
"""Fewest points for a line that something is predicted from."""


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


@dataclass(frozen=True, slots=True)
class Line:
    """A least-squares line through the means of x and y, and the standard error of its slope."""

    x_mean: float
    y_mean: float
    slope: float
    error: float

    @property
    def rises(self) -> bool:
        """Whether chance alone would hardly give such a slope: it is over two standard errors above 0."""
        return self.slope > 2 * self.error

    @property
    def steepest(self) -> Line:
        """The line with a slope that is two standard errors larger."""
        return replace(self, slope=self.slope + 2 * self.error)

    def at(self, x: float) -> float:
        """The value of the line."""
        return self.y_mean + self.slope * (x - self.x_mean)


def fit_line(points: Sequence[tuple[float, float]]) -> Line | None:
    """The least-squares line through points (x, y); None for fewer than `MIN_FITTED_POINTS`, or equal x."""
    count = len(points)
    if count < MIN_FITTED_POINTS:
        return None
    x_mean, y_mean = fmean(x for x, _ in points), fmean(y for _, y in points)
    variation = sum((x - x_mean) ** 2 for x, _ in points)
    if variation <= 1e-12 * count * max(1.0, x_mean * x_mean):
        return None
    slope = sum((x - x_mean) * (y - y_mean) for x, y in points) / variation
    residual = sum((y - y_mean - slope * (x - x_mean)) ** 2 for x, y in points)
    return Line(x_mean, y_mean, slope, math.sqrt(residual / (count - 2) / variation))


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
