"""Reward formulas: built-in ones and expressions, over the shipped axes and over others."""

from __future__ import annotations

from typing import Any

import pytest

from ida_tui.config.schema import RubricConfig
from ida_tui.config.scoring.axes import Axis, judged_axis
from ida_tui.errors import UsageError
from ida_tui.rewards.formulas import parse_formula, rubric_formula
from tests.support.scores import ida_scores

TONE, BRIEF = judged_axis("tone"), judged_axis("brief")
LENGTH = Axis("length", "computed", 0.0, 1.0)
JUDGED = {"zero": "worst", "ten": "best"}
COMPUTED = {"function": "mine:score"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("r_ida", 0.8 * 6 * 12 / 200),
        ("ungated", 6 * 12 / 200),
        ("align-only", 0.6),
        ("weakest", 0.4),
        ("weighted", 0.6),
    ],
)
def test_the_built_in_formulas_of_the_shipped_axes(text: str, expected: float) -> None:
    assert parse_formula(text).reward(ida_scores(6, 4, 8)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"), [("weakest", 0.3), ("weighted", 0.6), ("tone/10 - (brief > 5)", -0.7)]
)
def test_formulas_of_other_axes(text: str, expected: float) -> None:
    formula = parse_formula(text, (TONE, BRIEF))
    assert formula.reward({"tone": 3.0, "brief": 9.0}) == pytest.approx(expected)


def test_weights_are_for_the_axes_of_the_rubric() -> None:
    formula = parse_formula("weighted", (TONE, BRIEF), weights={"tone": 3.0})
    assert formula.reward({"tone": 4.0, "brief": 8.0}) == pytest.approx(0.5)
    with pytest.raises(UsageError) as raised:
        parse_formula("weighted", (TONE, BRIEF), weights={"align": 1.0})
    assert "unknown axis" in raised.value.title
    assert "tone, brief" in (raised.value.hint or "")


@pytest.mark.parametrize("text", ["r_ida", "ungated", "align-only", "align"])
def test_the_formulas_of_the_shipped_axes_are_refused_for_others(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_formula(text, (TONE, BRIEF))
    assert "an expression over tone, brief" in (raised.value.hint or "")


def test_judged_formulas_are_refused_for_computed_axes() -> None:
    with pytest.raises(UsageError) as raised:
        parse_formula("weakest", (TONE, LENGTH))
    assert "weakest" in raised.value.title
    assert (raised.value.hint or "").startswith("use an expression over tone, length")


@pytest.mark.parametrize(
    ("axes", "text", "name"),
    [
        ({"align": JUDGED, "risk": JUDGED, "detail": JUDGED}, "r_ida", "R_IDA"),
        ({"detail": JUDGED, "risk": JUDGED, "align": JUDGED}, "r_ida", "R_IDA"),
        ({"tone": JUDGED}, "tone / 10", "reward"),
        ({"tone": JUDGED, "brief": JUDGED}, "(tone + brief) / 20", "reward"),
        ({"length": COMPUTED, "exact": COMPUTED}, "length + exact", "reward"),
    ],
)
def test_a_rubric_without_a_formula_has_one_for_its_axes(
    axes: dict[str, Any], text: str, name: str
) -> None:
    rubric = RubricConfig.model_validate({"task": "Grade.", "axes": axes})
    assert (rubric.formula_text, rubric.reward_name) == (text, name)
    formula = rubric_formula(rubric)
    assert set(formula.axes) == set(axes)
    assert formula.reward(dict.fromkeys(axes, 10.0)) == (20 if "length" in axes else 1)
