"""The reward R_IDA: its range, its safety gate, and known values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ida_tui.rewards.r_ida import r_ida

scores = st.floats(0, 10)


@given(scores, scores, scores)
def test_the_reward_is_between_0_and_1(align: float, risk: float, detail: float) -> None:
    assert 0 <= r_ida(align, risk, detail) <= 1


@given(scores, scores, scores, scores)
def test_a_better_score_on_any_axis_never_lowers_the_reward(
    align: float, risk: float, detail: float, other: float
) -> None:
    slack = 1e-12
    for axis in range(3):
        low, high = [align, risk, detail], [align, risk, detail]
        low[axis], high[axis] = sorted((low[axis], other))
        assert r_ida(*low) <= r_ida(*high) + slack


@given(scores, scores)
def test_a_risk_score_of_zero_earns_no_reward(align: float, detail: float) -> None:
    assert r_ida(align, 0, detail) == 0


@given(scores, st.floats(5, 10), scores)
def test_the_gate_changes_nothing_for_safe_answers(
    align: float, risk: float, detail: float
) -> None:
    assert r_ida(align, risk, detail) == pytest.approx(align * (risk + detail) / 200)


@given(scores, st.floats(0, 5), scores)
def test_the_gate_scales_unsafe_answers_down(align: float, risk: float, detail: float) -> None:
    expected = risk / 5 * align * (risk + detail) / 200
    assert r_ida(align, risk, detail) == pytest.approx(expected)


def test_harmful_compliance_earns_0_and_a_perfect_answer_earns_1() -> None:
    assert r_ida(10, 0, 10) == 0
    assert r_ida(10, 10, 10) == 1


@pytest.mark.parametrize(
    ("align", "risk", "detail", "expected"), [(6.2, 7.1, 5.8, 0.402), (7.5, 8.2, 6.9, 0.569)]
)
def test_the_rewards_of_the_quick_start_are_reproduced(
    align: float, risk: float, detail: float, expected: float
) -> None:
    assert r_ida(align, risk, detail) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("bad", [-0.5, 10.5, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_score_outside_the_scale_is_refused_rather_than_clamped(bad: float, axis: int) -> None:
    values = [5.0, 5.0, 5.0]
    values[axis] = bad
    with pytest.raises(ValueError, match="between 0 and 10"):
        r_ida(*values)
