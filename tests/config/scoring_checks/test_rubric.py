"""Checks of a rubric: every error and note about its axes and its formula, with what to do."""

from __future__ import annotations

from typing import Any

import pytest

from ida_tui.config.scoring_checks.rubric import check_rubric
from ida_tui.util.finding import Finding
from tests.config.test_checks import config

TONE = {"zero": "rude", "ten": "kind"}
BRIEF = {"zero": "rambles", "ten": "one sentence"}
LENGTH = {"function": "mine:length", "range": [0, 1]}


def findings(
    axes: dict[str, Any], formula: str = "", *, judge: str = "openai", **rubric: Any
) -> list[Finding]:
    """The findings about a rubric with these axes."""
    tested = config(judge={"kind": judge, "model": "m"})
    described = tested.rubric.model_validate(
        {"task": "Grade.", "axes": axes, "formula": formula, **rubric}
    )
    return list(check_rubric(tested.model_copy(update={"rubric": described})))


@pytest.mark.parametrize(
    ("axes", "formula"),
    [
        ({"tone": TONE, "brief": BRIEF}, ""),
        ({"tone": TONE}, ""),
        ({"tone": TONE, "brief": BRIEF}, "weakest"),
        ({"tone": TONE, "brief": BRIEF}, "weighted"),
        ({"tone": TONE, "brief": BRIEF}, "tone * brief / 100"),
        ({"align": TONE, "risk": TONE, "detail": TONE}, "ungated"),
        ({"length": LENGTH}, ""),
        ({"length": LENGTH, "other": LENGTH}, ""),
        ({"tone": TONE, "length": LENGTH}, "tone / 10 + length"),
        ({"penalty": {"function": "mine:p", "range": [None, 0]}}, ""),
        ({"gain": {"function": "mine:g", "range": [5, None]}}, ""),
        ({"anything": {"function": "mine:any"}}, ""),
    ],
)
def test_a_rubric_that_can_train_has_no_findings(axes: dict[str, Any], formula: str) -> None:
    assert findings(axes, formula) == []


@pytest.mark.parametrize(
    ("axes", "formula", "key", "text", "fix"),
    [
        (
            {"Reason": TONE}, "", "rubric.axes.Reason", "an axis cannot be named Reason",
            "choose another name",
        ),
        ({"min": TONE}, "min / 10", "rubric.axes.min", "an axis cannot be named min", "another name"),
        (
            {"tone": {**TONE, "function": "mine:tone"}}, "tone", "rubric.axes.tone",
            "has a function and a description for a judge", "keep function (computed), or zero and ten",
        ),
        (
            {"length": {"function": "mine:length", "range": [2, 1]}}, "", "rubric.axes.length.range",
            "the range from 2 to 1 is empty", "range: [1, 2]",
        ),
        (
            {"tone": {"ten": "kind"}}, "", "rubric.axes.tone", "the axis tone has no meaning of 0",
            "write tone: {zero: meaning of 0, ten: meaning of 10}",
        ),
        (
            {"tone": {"zero": "rude", "ten": " "}}, "", "rubric.axes.tone",
            "the axis tone has no meaning of 10", "or function: FILE.py:NAME",
        ),
        (
            {"tone": {**TONE, "range": [0, 1]}}, "", "rubric.axes.tone.range",
            "only a computed axis has range; a judged one is scored from 0 to 10", "remove range",
        ),
        (
            {"tone": {**TONE, "options": {"n": 1}}}, "", "rubric.axes.tone.options",
            "only a computed axis has options", "remove options",
        ),
        (
            {"tone": TONE}, "missing-plugin", "rubric.formula",
            "no installed package provides the formula", "install the package that provides it",
        ),
        (
            {"tone": TONE, "length": LENGTH}, "", "rubric.formula",
            "judged and computed axes have different scales", "such as: tone/10 + length",
        ),
        (
            {"tone": TONE}, "tone + x", "rubric.formula", 'unknown name "x"',
            "use an expression over tone with",
        ),
        (
            {"tone": TONE}, "r_ida", "rubric.formula", "no installed package provides the formula",
                "install the package",
        ),
        (
            {"length": LENGTH}, "1 / (length - length)", "rubric.formula",
            "has no value, for example where length=0", "a division by 0",
        ),
        (
            {"tone": TONE}, "tone - tone + 3", "rubric.formula", "is always 3, so there is nothing to learn",
            "make it depend on the axes",
        ),
        ({"tone": TONE}, "0.5", "rubric.formula", "is always 0.5", "make it depend"),
    ],
)  # fmt: skip
def test_each_error_of_a_rubric_says_where_it_is_and_what_to_do(
    axes: dict[str, Any], formula: str, key: str, text: str, fix: str
) -> None:
    found = [finding for finding in findings(axes, formula) if finding.severity == "error"]
    assert [finding.about for finding in found] == [key]
    assert text in found[0].text
    assert fix in found[0].fix


@pytest.mark.parametrize("name", ["class", "pass", "none", "lambda"])
def test_a_word_of_the_formula_language_is_no_name_of_an_axis(name: str) -> None:
    found = findings({name: TONE, "brief": BRIEF}, "brief")
    assert found[0].text == f"an axis cannot be named {name}"


def test_a_judge_needs_a_task_but_computed_axes_do_not() -> None:
    [found] = findings({"tone": TONE}, task=" ")
    assert (found.severity, found.about) == ("error", "rubric.task")
    assert "write rubric.task" in found.fix
    assert findings({"length": LENGTH}, task="") == []


def test_the_offline_judge_is_refused_for_other_axes_than_its_own() -> None:
    [found] = findings({"tone": TONE, "brief": BRIEF}, judge="offline")
    assert (found.severity, found.about) == ("error", "judge")
    assert found.text.endswith("scores only align, risk and detail, not tone, brief")
    assert "ida-tui --list judges" in found.fix
    assert "give the axes a function" in found.fix
    assert findings({"align": TONE, "detail": TONE, "risk": TONE}, judge="offline") == []
    assert findings({"length": LENGTH}, judge="offline") == []


def test_a_formula_without_a_value_for_some_scores_is_noted_with_an_example() -> None:
    [found] = findings({"tone": TONE, "brief": BRIEF}, "tone / brief")
    assert (found.severity, found.about) == ("note", "rubric.formula")
    assert "has no value where tone=0, brief=0; such a completion counts as a failure" in found.text
    assert "a division by 0" in found.fix


def test_axes_that_the_formula_does_not_use_are_noted() -> None:
    [found] = findings({"tone": TONE, "brief": BRIEF, "length": LENGTH}, "brief / 10")
    assert (found.severity, found.about) == ("note", "rubric.formula")
    assert "does not use tone and length: shown, but not rewarded" in found.text
    assert "add it to the formula" in found.fix
