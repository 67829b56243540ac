"""The reward check: known answers, and what it says about good, bad and broken rewards."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Config, Prompt
from ida_tui.config.scoring.axes import Scores
from ida_tui.errors import UsageError
from ida_tui.rewards.check import MADE_UP_IDS, RewardCheckReport, check_rewards
from ida_tui.rewards.check_text import as_json, render_report
from ida_tui.rewards.known_answers import (
    KnownAnswer,
    function_keywords,
    known_answers,
    require_gold_column,
)
from ida_tui.util.text import as_json as json_text

ACCURACY = """
    def accuracy(completion, answer):
        words = completion.replace(".", " ").split()
        return float(answer in words[:1])
"""


def prompts_of(*answers: Any, column: str = "answer") -> list[Prompt]:
    return [
        Prompt(id=f"p{n}", kind="harmless", text=f"Question {n}?", columns={column: answer})
        for n, answer in enumerate(answers)
    ]


@pytest.fixture(scope="module")
def base() -> Config:
    return resolve("quickstart").config


@pytest.fixture
def check(base: Config, tmp_path: Path) -> Any:
    """Check the functions of a file on prompts with the answers a, b and c."""

    def run(
        code: str,
        *,
        prompts: Sequence[Prompt] = prompts_of("alpha", "beta", "gamma"),
        formula: str = "",
        judged_axis: bool = False,
        **options: Any,
    ) -> RewardCheckReport:
        file = tmp_path / "rewards.py"
        file.write_text(textwrap.dedent(code))
        rubric = resolve("quickstart", [f"rubric={file}"], verify=False).config.rubric
        if judged_axis:
            align = base.rubric.axes["align"]
            rubric = rubric.model_copy(update={"axes": {**rubric.axes, "align": align}})
        rubric = rubric.model_copy(update={"formula": formula})
        prompt_set = base.prompts.model_copy(update={"prompts": list(prompts)})
        config = base.model_copy(update={"rubric": rubric, "prompts": prompt_set})
        return check_rewards(config, **options)

    return run


def errors(report: RewardCheckReport) -> dict[str, str]:
    return {f.about: f.text for f in report.findings() if f.severity == "error"}


def test_a_reward_for_right_answers_is_trusted(check: Any) -> None:
    report = check(ACCURACY)
    assert report.trusted
    assert errors(report) == {}
    assert report.mean_reward("gold") == report.mean_reward("padded") == 1.0
    assert report.mean_reward("wrong") == report.mean_reward("empty") == 0.0
    assert report.lesson() == "GRPO would learn to give answers such as those in the column answer."


def test_a_function_that_pays_for_length_is_called_out(check: Any) -> None:
    report = check(
        ACCURACY + "\n    def thorough(completion): return min(1.0, len(completion) / 400)"
    )
    assert not report.trusted
    assert errors(report)["length"].startswith(
        "pays for length (by thorough): padding the answer to three times its length raises its reward"
    )
    assert report.lesson().startswith("GRPO would learn to write longer answers, not better ones")


def test_length_is_called_out_where_filler_after_the_answer_breaks_its_form(check: Any) -> None:
    report = check(
        "def f(completion, answer): return completion.endswith(answer) + len(completion) / 1000"
    )
    assert report.mean_reward("padded") < report.mean_reward("gold")
    assert "pays for length (by f)" in errors(report)["length"]


def test_a_function_that_takes_messages_for_texts_is_told_how_to_get_texts(check: Any) -> None:
    report = check("def f(completions, **_): return [float('a' in c.lower()) for c in completions]")
    assert "annotate completions: list[str]" in errors(report)["failures"]


def test_paying_for_length_is_called_out_without_right_answers_too(check: Any) -> None:
    report = check(
        "def f(completion): return len(completion)", prompts=prompts_of("x", column="topic")
    )
    assert report.gold_column is None
    assert "pays for length (by f): long filler pays" in errors(report)["length"]


@pytest.mark.parametrize(
    ("code", "about", "lesson"),
    [
        ("def f(completion): return -len(completion)", "empty", "to say nothing"),
        ("def f(completion): return 0.5", "constant", "learn nothing"),
        ("def f(prompt, completion): return prompt == completion", "echo", "to repeat the prompt"),
        ("def f(completion): return 0 < len(completion) < 9", "wrong", "wrong ones pay as much"),
        (
            "def f(completion): return 'proof' in completion",
            "injection",
            "print what the functions",
        ),
        ("def f(completions, **_): return [len(c) for c in completions]", "constant", "nothing"),
        ("def f(completion): raise ValueError('no')", "failures", "no answer has a reward"),
        ("def f(completion, missing): return 1", "columns", "the data lacks a column"),
    ],
)
def test_what_is_wrong_is_said_in_plain_words(
    check: Any, code: str, about: str, lesson: str
) -> None:
    report = check(code)
    assert about in errors(report)
    assert lesson in report.lesson()
    assert list(render_report(report))[-1] == report.lesson()


def test_a_constant_reward_of_trl_s_form_names_the_likely_reason(check: Any) -> None:
    report = check("def f(completions, **_): return [len(c) for c in completions]")
    assert "annotate completions: list[str]" in errors(report)["constant"]


def test_failures_name_the_answers_and_the_place(check: Any) -> None:
    report = check("def f(completion, answer):\n    return float(answer in completion.split()[0])")
    assert errors(report)["failures"] == (
        "f: 3 of 24 answers failed (empty): IndexError: list index out of range (rewards.py:2)"
    )


def test_a_group_function_gets_the_answers_to_one_prompt(check: Any) -> None:
    code = """
        def f(prompt, completions, answer):
            assert len(completions) == 8 and len(set(answer)) == 1
            return [c.startswith(answer[0]) for c in completions]
    """
    assert check(code).trusted


def test_judged_axes_have_an_assumed_score_unless_the_judge_is_asked(check: Any) -> None:
    report = check(ACCURACY, judged_axis=True, formula="accuracy * align / 10")
    assert report.mean_reward("gold") == 0.5
    assert "! the judge is not asked: align count 5 of 10 (ask it with --judge)" in list(
        render_report(report)
    )


def test_the_judge_s_scores_and_failures_count(check: Any) -> None:
    def judged(answers: Sequence[KnownAnswer]) -> list[tuple[Scores, str | None]]:
        return [
            ({}, "it answered in prose") if answer.kind == "echo" else ({"align": 10.0}, None)
            for answer in answers
        ]

    report = check(
        ACCURACY, formula="accuracy * align / 10", judged_axis=True, judged=judged, judge="mine"
    )
    assert report.mean_reward("gold") == 1.0
    assert report.mean_reward("echo") is None
    assert (
        errors(report)["failures"] == "judge: 3 of 24 answers failed (echo): it answered in prose"
    )


def test_functions_of_token_ids_get_those_of_the_tokenizer(check: Any) -> None:
    code = "def f(completion_ids, answer, **_): return [len(ids) == 1 for ids in completion_ids]"
    made_up = check(code)
    assert MADE_UP_IDS in made_up.notes
    report = check(code, load_tokenizer=lambda: lambda text: text.split())
    assert report.notes == ()
    assert report.mean_reward("gold") == 1.0
    assert report.mean_reward("empty") == 0.0


def test_the_report_is_json_with_every_answer(check: Any) -> None:
    report = check("def f(completion): return float('nan') if not completion else 1")
    values = as_json(report)
    json_text(values)
    assert values["trusted"] is False
    answers: Any = values["answers"]
    assert len(answers) == 24
    assert {answer["kind"] for answer in answers if answer["reward"] is None} == {"empty"}


def test_a_reward_without_functions_refers_to_the_judge_check(base: Config) -> None:
    with pytest.raises(UsageError, match="no function computes") as raised:
        check_rewards(base)
    assert "judge check" in raised.value.hint


def test_what_is_told_before_the_functions_run_is_not_told_if_an_argument_is_wrong(
    base: Config,
) -> None:
    told: list[str] = []
    with pytest.raises(UsageError):
        check_rewards(base, before_functions=lambda: told.append("header"))
    assert not told


# --- known answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("  x ", "x"),
        (18, "18"),
        (0.5, "0.5"),
        (["first", "second"], "first"),
        ([{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}], "!"),
    ],
)
def test_right_answers_of_every_layout_are_read(value: object, text: str) -> None:
    [group], column = known_answers(
        prompts_of(value, column="solution"), rows=1, gold_column=None, gold_format="<{}>"
    )
    assert column == "solution"
    assert {a.kind: a.text for a in group}["gold"] == f"<{text}>"


def test_prompts_without_a_right_answer_are_not_drawn_where_others_have_one() -> None:
    groups, _ = known_answers(prompts_of("a", None, True, "b"), rows=8, gold_column=None)
    assert [group[0].prompt.id for group in groups] == ["p0", "p3"]
    assert [next(a.text for a in g if a.kind == "wrong") for g in groups] == ["b", "a"]


def test_prompts_are_drawn_evenly() -> None:
    groups, _ = known_answers(prompts_of(*map(str, range(100))), rows=4, gold_column=None)
    assert [group[0].prompt.id for group in groups] == ["p0", "p25", "p50", "p75"]


def test_the_same_answer_everywhere_leaves_out_wrong_ones() -> None:
    groups, _ = known_answers(prompts_of("yes", "yes"), rows=2, gold_column=None)
    assert "wrong" not in {answer.kind for answer in groups[0]}


def test_an_unknown_column_of_right_answers_names_those_that_exist() -> None:
    with pytest.raises(UsageError, match='column "gold"') as raised:
        require_gold_column(prompts_of("a"), "gold")
    assert raised.value.hint == "columns of the prompts: answer"


def test_keywords_are_the_tags_and_words_of_the_source() -> None:
    def function(completion: str) -> bool:
        """Not this text."""
        return "proof" in completion and completion != r"^<think>.*?</think>$"

    assert function_keywords([function, len]) == ["proof", "<think>", "</think>"]
