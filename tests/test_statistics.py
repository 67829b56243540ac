"""Intervals that cover what they say, and correlations as textbooks have them."""

from __future__ import annotations

import random

import pytest

from ida_tui.statistics import bootstrap, paired, pearson, ranks, slope, spearman, wilson


def test_the_bootstrap_interval_covers_the_truth_about_nineteen_times_in_twenty() -> None:
    chance = random.Random(1)
    covered = 0
    for trial in range(200):
        values = [chance.gauss(0.3, 1.0) for _ in range(30)]
        found = bootstrap(values, seed=trial, resamples=800)
        covered += found.low <= 0.3 <= found.high
    assert 180 <= covered <= 198


def test_pairs_are_compared_one_by_one() -> None:
    before = [0.0, 1.0, 0.25, 0.75] * 5
    after = [value + 0.1 for value in before]
    found = paired(before, after)
    assert (round(found.value, 6), round(found.low, 6), round(found.high, 6)) == (0.1, 0.1, 0.1)
    assert found.excludes_zero
    assert not paired(before, before).excludes_zero


def test_one_pair_says_nothing() -> None:
    assert not paired([0.0], [1.0]).excludes_zero


def test_wilsons_interval_is_the_published_one() -> None:
    found = wilson(8, 10)
    assert (round(found.low, 3), round(found.high, 3)) == (0.490, 0.943)
    assert wilson(0, 10).low == pytest.approx(0)
    with pytest.raises(ValueError, match="nothing"):
        wilson(0, 0)


def test_equal_values_share_their_rank() -> None:
    assert ranks([3.0, 1.0, 3.0, 2.0]) == [3.5, 1.0, 3.5, 2.0]


def test_correlations() -> None:
    assert pearson([1, 2, 3, 4], [2, 4, 6, 8]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert pearson([1, 1, 1], [1, 2, 3]) is None
    assert pearson([1, 2], [1, 2]) is None


def test_a_slope_is_per_step() -> None:
    assert slope([1.0, 1.5, 2.0, 2.5]) == pytest.approx(0.5)
    assert slope([7.0]) == 0.0
