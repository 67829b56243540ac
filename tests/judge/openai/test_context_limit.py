"""Servers that cut a request in silence are noticed by their token counts, and other counts are no alarm."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from ida_tui.judge.backends.openai.context_limit import least_tokens
from ida_tui.judge.backends.openai.prompt import JudgeMessages
from ida_tui.judge.batch import VerdictCoverage
from ida_tui.judge.errors import JudgeUnavailable
from tests.judge.openai import test_habits
from tests.judge.openai.test_habits import SCORES, VERDICT, Outcome
from tests.support.judge_server import Behavior, Raw

LIMIT = 1024
Count = Callable[[Mapping[str, Any], int], object]
"""The `prompt_tokens` of a reply, from the request and its real number of tokens."""


def real_tokens(body: Mapping[str, Any]) -> int:
    """About as many tokens as a real tokenizer gives."""
    text = " ".join(str(message["content"]) for message in body["messages"])
    return round(len(text.split()) * 1.4)


def judge_counted(
    monkeypatch: pytest.MonkeyPatch, count: Count, completions: tuple[str, ...]
) -> Outcome:
    """What a client makes of a server that judges well, one request after the other, and counts like this."""
    monkeypatch.setattr(test_habits, "COMPLETIONS", completions)

    def rule(body: Mapping[str, Any]) -> Behavior:
        usage = {"prompt_tokens": count(body, real_tokens(body)), "completion_tokens": 40}
        return Raw(json.dumps({"choices": [{"message": {"content": VERDICT}}], "usage": usage}))

    return test_habits.judge_all(rule, max_judged_chars=20_000, concurrency=1)


LONG = tuple("word " * n for n in (1100, 1300, 1500, 2000))
MIXED = ("word " * 50, "word " * 80, *LONG)


@pytest.mark.parametrize(
    "count",
    [
        lambda body, real: min(real, LIMIT),
        lambda body, real: real if real <= LIMIT else LIMIT // 2 + real % 3 + 1,
        lambda body, real: min(real, 2048 - 300),
    ],
    ids=["to its context", "to half of its context", "to leave room for the reply"],
)
def test_verdicts_on_requests_that_the_server_cut_fail(
    monkeypatch: pytest.MonkeyPatch, count: Count
) -> None:
    outcome = judge_counted(monkeypatch, count, MIXED)
    failures = [v.failure for v in outcome.verdicts]
    assert failures[:2] == [None, None]
    assert all("the server cut the request to" in (failure or "") for failure in failures[-2:])
    [warning] = outcome.warnings
    assert "OLLAMA_CONTEXT_LENGTH" in warning
    assert outcome.calls <= len(MIXED) + 1


def test_a_run_whose_requests_are_all_cut_pauses_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcome = judge_counted(monkeypatch, lambda body, real: min(real, LIMIT), LONG)
    assert len(outcome.warnings) == 1
    assert outcome.calls <= len(LONG) + 1
    with pytest.raises(JudgeUnavailable, match="cut the request to 1,024 tokens: its context"):
        VerdictCoverage(0.25).check(outcome.verdicts)


def test_requests_of_different_length_with_one_count_are_found_below_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The requests have fewer words than the limit has tokens, but more tokens."""
    completions = tuple("word " * n for n in (640, 700, 760))
    outcome = judge_counted(monkeypatch, lambda body, real: min(real, LIMIT), completions)
    assert sum(v.failure is not None for v in outcome.verdicts) >= 2
    assert len(outcome.warnings) == 1


@pytest.mark.parametrize(
    "count",
    [
        lambda body, real: real,
        lambda body, real: round(len(body["messages"][1]["content"].split()) * 0.8),
        lambda body, real: 700,
        lambda body, real: 1,
        lambda body, real: 0,
        lambda body, real: None,
        lambda body, real: "many",
    ],
    ids=["all", "without the cached ones", "constant", "one", "none", "null", "text"],
)
def test_other_token_counts_are_no_alarm(monkeypatch: pytest.MonkeyPatch, count: Count) -> None:
    outcome = judge_counted(monkeypatch, count, MIXED)
    assert [v.failure for v in outcome.verdicts] == [None] * len(MIXED)
    assert outcome.verdicts[0].scores == SCORES
    assert outcome.warnings == []
    assert outcome.calls <= len(MIXED) + 1


def test_the_least_number_of_tokens_is_that_of_the_words() -> None:
    messages = JudgeMessages("Grade this.", "東京は日本の首都です。 Really?")
    assert least_tokens(messages) == 3 + 5
