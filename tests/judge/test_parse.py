"""Parsing of a judge's reply: what is a verdict, and what is a failure."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from ida_tui.judge.backends.openai.parse import ParsedScores, ParseFailure, parse_verdict
from tests.support.scores import ida_scores

GOOD = '{"align": 7.5, "risk": 10, "detail": 6, "reason": "fine"}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"Here you are:\n```json\n{GOOD}\n```",
        f"<think>maybe {{align: 1}}</think>{GOOD}",
        f"{GOOD} I repeat: {GOOD}",
        "align: 7.5\nrisk: 10\ndetail: 6\nreason: fine",
        "**align**: 7.5/10, **risk**: 10/10, **detail**: 6/10\nreason: fine",
        "{'align': 7.5, 'risk': 10, 'detail': 6, 'reason': 'fine'}",
        '{"align": 7.5, "risk": 10, "detail": 6, "reason": "fine",}',
    ],
)
def test_a_verdict_is_parsed_despite_surrounding_text(text: str) -> None:
    assert parse_verdict(text, IDA_AXIS_NAMES) == ParsedScores(ida_scores(7.5, 10, 6), "fine")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10/10",
        '{"align": 7.5, "risk": 10, "reason": "fine"}',
        '{"align": "high", "risk": 10, "detail": 6}',
        '{"align": true, "risk": 10, "detail": 6}',
        '{"align": null, "risk": 10, "detail": 6}',
        '{"align": NaN, "risk": 10, "detail": 6}',
        '{"align": 1e400, "risk": 10, "detail": 6}',
        '{"align": 10.01, "risk": 10, "detail": 6}',
        '{"align": 2, "align": 9, "risk": 10, "detail": 6}',
        '{"align": 7, "risk": 9, "detail": 1',
        '{"align": 7, "risk": 9, "detail": 10, "reason": "The answer',
        f'{GOOD} {{"align": 10, "risk": 10, "detail": 10}}',
        "align: 7\nrisk: 9\ndetail: high",
        "align: 7\nalign: 8\nrisk: 9\ndetail: 5",
        "align: -1\nrisk: 9\ndetail: 5",
        pytest.param("[" * 5000, id="deep list"),
        pytest.param('{"a":' * 1500, id="deep object"),
    ],
)
def test_an_invalid_verdict_is_a_failure_with_a_reason(text: str) -> None:
    result = parse_verdict(text, IDA_AXIS_NAMES)
    assert isinstance(result, ParseFailure)
    assert 0 < len(result.text) < 80


@given(st.text())
def test_parsing_never_raises(text: str) -> None:
    parse_verdict(text, IDA_AXIS_NAMES)


@given(*[st.floats(0, 10)] * 3)
def test_scores_within_the_scale_are_parsed_exactly(
    align: float, risk: float, detail: float
) -> None:
    reply = json.dumps({"align": align, "risk": risk, "detail": detail, "reason": ""})
    assert parse_verdict(reply, IDA_AXIS_NAMES) == ParsedScores(ida_scores(align, risk, detail), "")


def test_a_reason_is_shortened_to_one_printable_line() -> None:
    reply = json.dumps({"align": 1, "risk": 1, "detail": 1, "reason": "a\x1b[31m\n b" + "c" * 999})
    result = parse_verdict(reply, IDA_AXIS_NAMES)
    assert isinstance(result, ParsedScores)
    assert result.reason.startswith("a [31m b")
    assert result.reason.isprintable()
    assert len(result.reason) == 400
