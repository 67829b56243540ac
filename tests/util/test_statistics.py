"""Correlations, ranks and slopes."""

from __future__ import annotations

import pytest

from ida_tui.util.statistics import fit_line, pearson, ranks, slope, spearman


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


def test_a_line_is_fitted_with_the_error_of_its_slope() -> None:
    exact = fit_line([(x, 3 + 0.5 * x) for x in range(40)])
    assert exact is not None
    assert (exact.slope, exact.error) == pytest.approx((0.5, 0.0), abs=1e-9)
    assert exact.at(100) == pytest.approx(53)

    # Residuals of ±1: the root of 40 / 38 over the sum of the squared deviations of x.
    noisy = fit_line([(x // 2, (-1) ** x) for x in range(40)])
    assert noisy is not None
    assert noisy.slope == pytest.approx(0)
    assert noisy.error == pytest.approx((40 / 38 / (2 * 665)) ** 0.5)
    assert not noisy.rises
    assert noisy.steepest.slope == pytest.approx(2 * noisy.error)
    assert noisy.steepest.at(noisy.x_mean) == pytest.approx(noisy.y_mean)


def test_no_line_goes_through_few_points_or_equal_ones() -> None:
    assert fit_line([(x, x) for x in range(19)]) is None
    assert fit_line([(5.0, y) for y in range(40)]) is None
