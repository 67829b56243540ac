"""Confidence intervals, correlations, ranks and slopes."""

from __future__ import annotations

import math
import random

import pytest

from ida_tui.util.statistics import (
    Interval,
    bootstrap,
    paired_bootstrap,
    pearson,
    ranks,
    slope,
    spearman,
    student_interval,
    t_quantile,
    wilson,
)


def test_the_bootstrap_interval_covers_the_true_mean_in_about_95_percent_of_trials() -> None:
    chance = random.Random(1)
    covered = 0
    for trial in range(200):
        values = [chance.gauss(0.3, 1.0) for _ in range(30)]
        interval = bootstrap(values, seed=trial, resamples=800)
        covered += interval.low <= 0.3 <= interval.high
    assert 180 <= covered <= 198


def test_the_paired_bootstrap_uses_the_difference_of_each_pair() -> None:
    before = [0.0, 1.0, 0.25, 0.75] * 5
    after = [value + 0.1 for value in before]
    interval = paired_bootstrap(before, after)
    assert (round(interval.value, 6), round(interval.low, 6), round(interval.high, 6)) == (
        0.1,
        0.1,
        0.1,
    )
    assert interval.excludes_zero
    assert not paired_bootstrap(before, before).excludes_zero


def test_a_single_pair_never_excludes_zero() -> None:
    assert not paired_bootstrap([0.0], [1.0]).excludes_zero


def test_wilsons_interval_matches_the_published_values() -> None:
    interval = wilson(8, 10)
    assert (round(interval.low, 3), round(interval.high, 3)) == (0.490, 0.943)
    assert wilson(0, 10).low == pytest.approx(0)
    with pytest.raises(ValueError, match="must be positive"):
        wilson(0, 0)


def test_equal_values_get_their_mean_rank() -> None:
    assert ranks([3.0, 1.0, 3.0, 2.0]) == [3.5, 1.0, 3.5, 2.0]


def test_correlations_match_known_values() -> None:
    assert pearson([1, 2, 3, 4], [2, 4, 6, 8]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert pearson([1, 1, 1], [1, 2, 3]) is None
    assert pearson([1, 2], [1, 2]) is None


def test_a_slope_is_per_step() -> None:
    assert slope([1.0, 1.5, 2.0, 2.5]) == pytest.approx(0.5)
    assert slope([7.0]) == 0.0


def test_t_quantiles_match_published_tables() -> None:
    expected = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 9: 2.2622, 30: 2.0423, 120: 1.9799}

    assert {n: round(t_quantile(0.975, n), 4) for n in expected} == expected


def test_students_interval_of_three_values_matches_a_manual_calculation() -> None:
    interval = student_interval([1.0, 2.0, 3.0])

    assert interval.value == 2.0
    assert interval.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)
    assert interval.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)


def test_students_interval_has_95_percent_coverage() -> None:
    chance = random.Random(0)
    samples = [[chance.gauss(5, 2) for _ in range(3)] for _ in range(4000)]

    covered = sum(i.low <= 5 <= i.high for i in map(student_interval, samples)) / len(samples)

    assert covered == pytest.approx(0.95, abs=0.012)


def test_students_interval_of_one_value_is_unbounded() -> None:
    assert student_interval([0.5]) == Interval(0.5, -math.inf, math.inf)
