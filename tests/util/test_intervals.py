"""Confidence intervals and what they allow to say."""

from __future__ import annotations

import math
import random

import pytest

from ida_tui.util.intervals import (
    Interval,
    binomial_interval,
    change_interval,
    difference_interval,
    outcome_of_change,
    share_interval,
    student_interval,
    t_quantile,
)


def test_nothing_seen_on_ten_prompts_leaves_a_change_of_28_points_possible() -> None:
    interval = change_interval([0.0] * 10)

    assert interval.value == 0
    assert (interval.low, interval.high) == pytest.approx((-0.2775, 0.2775), abs=1e-4)


def test_a_share_of_all_answers_to_ten_prompts_may_be_72_percent() -> None:
    assert share_interval([1.0] * 10).low == pytest.approx(0.7225, abs=1e-4)
    assert share_interval([0.0] * 10).high == pytest.approx(0.2775, abs=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 10, 80])
@pytest.mark.parametrize("value", [0.0, 0.25, 0.5, 1.0])
def test_equal_values_never_have_an_interval_of_zero_width(count: int, value: float) -> None:
    assert (
        share_interval([value] * count).high - share_interval([value] * count).low > 1 / count / 2
    )
    for change in (value, -value):
        interval = change_interval([change] * count)
        assert interval.high - interval.low > 1 / count / 2
        assert -1 <= interval.low <= interval.value <= interval.high <= 1


@pytest.mark.parametrize("changes", [[0.25, 0.25], [1.0], [-1.0, -1.0], [0.1] * 3])
def test_a_few_prompts_that_gain_the_same_are_not_better(changes: list[float]) -> None:
    interval = change_interval(changes)

    assert outcome_of_change(interval.low, interval.high, count=len(changes)) == "unclear"


def test_one_small_loss_does_not_make_the_interval_narrower_than_none() -> None:
    none, one = change_interval([0.0] * 10), change_interval([0.0] * 9 + [-0.25])

    assert one.low < none.low
    assert share_interval([1.0] * 9 + [0.75]).low < share_interval([1.0] * 10).low


def test_as_before_needs_a_narrow_interval_and_59_prompts() -> None:
    assert outcome_of_change(-0.04, 0.04, count=58) == "unclear"
    assert outcome_of_change(-0.04, 0.04, count=59) == "same"
    assert outcome_of_change(-0.06, 0.04, count=500) == "unclear"
    assert outcome_of_change(0.01, 0.04, count=500) == "higher"
    assert outcome_of_change(-0.04, -0.01, count=500) == "lower"
    assert outcome_of_change(-0.04, 0.04, count=59, most=0.5) == "unclear"


def test_a_true_loss_of_nine_points_is_never_called_as_before() -> None:
    chance = random.Random(0)
    for _ in range(200):
        changes = []
        for _ in range(10):
            declines = 0.1 if chance.random() < 0.1 else 1.0
            changes.append(sum(chance.random() < declines for _ in range(4)) / 4 - 1)
        interval = change_interval(changes)
        assert outcome_of_change(interval.low, interval.high, count=10) != "same"
        assert interval.low < -0.09


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.98])
def test_a_share_is_covered_in_93_percent_of_evaluations_or_more(share: float) -> None:
    """Exact for one answer to each prompt: the sum over all outcomes."""
    for count in (5, 10, 20, 40, 80):
        covered = 0.0
        for hits in range(count + 1):
            interval = share_interval([1.0] * hits + [0.0] * (count - hits))
            if interval.low <= share <= interval.high:
                chance = math.comb(count, hits) * share**hits * (1 - share) ** (count - hits)
                covered += chance
        assert covered > 0.93


@pytest.mark.parametrize("truth", [0.0, 0.3])
def test_a_change_is_covered_in_about_95_percent_of_evaluations(truth: float) -> None:
    chance = random.Random(1)
    covered = 0
    for _ in range(1000):
        before = [sum(chance.random() < 0.4 for _ in range(4)) / 4 for _ in range(20)]
        after = [sum(chance.random() < 0.4 + truth for _ in range(4)) / 4 for _ in range(20)]
        interval = change_interval([new - old for old, new in zip(before, after, strict=True)])
        covered += interval.low <= truth <= interval.high
    assert 930 <= covered <= 985


def test_changes_that_differ_have_about_the_interval_of_student() -> None:
    changes = [0.12, 0.1, 0.2, 0.05, 0.11, 0.3, 0.0, 0.13, 0.09, 0.14]
    interval, expected = change_interval(changes), student_interval(changes)

    assert interval.low == pytest.approx(expected.low, abs=0.02)
    assert interval.high == pytest.approx(expected.high, abs=0.02)


def test_the_interval_of_points_is_that_of_fractions_on_another_scale() -> None:
    points, fractions = change_interval([0.0, 2.5, -1.0], most=10), change_interval([0, 0.25, -0.1])

    assert (points.low, points.high) == pytest.approx((10 * fractions.low, 10 * fractions.high))


def test_pairs_that_change_completely_have_tangos_interval() -> None:
    """12 gains and 2 losses among 50 pairs."""
    interval = change_interval([1.0] * 12 + [-1.0] * 2 + [0.0] * 36)

    assert (round(interval.low, 3), round(interval.high, 3)) == (0.061, 0.345)


def test_a_binomial_interval_lies_between_wilson_and_mid_p() -> None:
    interval = binomial_interval(1, 10)

    assert 0.0179 > interval.low > 0.0050
    assert interval.high == pytest.approx(0.4042, abs=1e-4)
    assert binomial_interval(9, 10).low == pytest.approx(1 - interval.high)
    with pytest.raises(ValueError, match="must be positive"):
        binomial_interval(0, 0)


def test_two_shares_of_eight_completions_do_not_differ_by_two_completions() -> None:
    assert not difference_interval(1.0, 8, 0.75, 8).excludes_zero
    assert difference_interval(1.0, 80, 0.75, 80).excludes_zero


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


def test_students_interval_of_one_value_or_of_equal_values_is_unbounded() -> None:
    assert student_interval([0.5]) == Interval(0.5, -math.inf, math.inf)
    assert student_interval([0.01, 0.01, 0.01]).low == -math.inf
