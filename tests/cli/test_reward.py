"""`ida-tui reward check`: what it prints, in which order, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.sums import PROMPTS, REWARDS


@pytest.fixture(autouse=True)
def files() -> None:
    Path("rewards.py").write_text(REWARDS)
    Path("sums.yaml").write_text(PROMPTS)


def words(*functions: str) -> tuple[str, ...]:
    rubric = f"rubric=rewards.py:{','.join(functions)}"
    return ("reward", "check", "quickstart", rubric, "prompts=sums.yaml")


def test_a_good_reward_ends_with_0_and_names_its_file_first(ida_tui_here: Any) -> None:
    result = ida_tui_here(*words("accuracy"))

    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[:2] == [
        "reward = accuracy, rubric rewards",
        "accuracy computed by rewards.py:accuracy",
    ]
    assert "imported" not in result.out
    assert "imported" in result.err
    assert "✓ all 16 answers have a reward" in lines
    assert lines[-1] == "GRPO would learn to give answers such as those in the column answer."


def test_a_reward_that_pays_for_length_ends_with_1(ida_tui_here: Any) -> None:
    result = ida_tui_here(*words("accuracy", "thorough"))

    assert result.code == 1
    assert "✗ pays for length (by thorough):" in result.out
    assert "GRPO would learn to write longer answers, not better ones" in result.out


def test_json_has_the_figures_and_nothing_else_on_stdout(ida_tui_here: Any) -> None:
    result = ida_tui_here(*words("accuracy"), "--json", "--rows", "1")

    values = json.loads(result.out)
    assert values["trusted"] is True
    assert [kind["kind"] for kind in values["kinds"]][:3] == ["gold", "padded", "delayed"]
    assert "accuracy computed by rewards.py:accuracy" in result.err


def test_a_format_is_put_around_the_right_answers(ida_tui_here: Any) -> None:
    tagged = REWARDS.replace("completion.split()[:1] == [answer]", "'<a>' + answer in completion")
    Path("rewards.py").write_text(tagged)

    assert ida_tui_here(*words("accuracy")).code == 1
    result = ida_tui_here(*words("accuracy"), "--gold-format", "<a>{}</a>")
    assert result.code == 0, result.out


def test_the_judge_is_asked_only_on_request(ida_tui_here: Any) -> None:
    Path("mixed.yaml").write_text(
        "extends: ida\n"
        "axes:\n  accuracy: {function: 'rewards.py:accuracy'}\n"
        "formula: align / 10 * accuracy\n"
    )
    command = ("reward", "check", "quickstart", "rubric=mixed.yaml", "prompts=sums.yaml")
    result = ida_tui_here(*command)
    assert "the judge is not asked: align, risk, detail count 5 of 10" in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rows", "0"), "--rows must be from 1 to 1000"),
        (("--gold-format", "x"), "--gold-format has no {}"),
        (("--gold", "nothing"), 'no prompt has an answer in the column "nothing"'),
    ],
)
def test_wrong_arguments_are_usage_errors(
    ida_tui_here: Any, arguments: tuple[str, ...], message: str
) -> None:
    result = ida_tui_here(*words("accuracy"), *arguments)
    assert result.code == 2
    assert result.out == ""
    assert message in result.err


def test_a_judged_reward_refers_to_the_judge_check(ida_tui_here: Any) -> None:
    result = ida_tui_here("reward", "check", "quickstart")
    assert result.code == 2
    assert result.out == ""
    assert "ida-tui judge check" in result.err


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def accuracy(completion): return 1 / 0", "ZeroDivisionError: division by zero (rewards.py:1)"),
        ("import sys\ndef accuracy(completion): return 1\nsys.exit(3)", "cannot be loaded: SystemExit: 3"),
        ("def accuracy(completion) return 1", "not valid Python"),
    ],
)  # fmt: skip
def test_broken_functions_are_named_without_a_traceback(
    ida_tui_here: Any, code: str, message: str
) -> None:
    Path("rewards.py").write_text(code)
    result = ida_tui_here(*words("accuracy"))
    assert result.code in (1, 2)
    assert message in result.out + result.err
    assert "Traceback" not in result.out + result.err
