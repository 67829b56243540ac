"""Hostile input: no traceback, no hang, and no character that a terminal interprets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from ida_tui.config.yaml_tree import Origin, parse_yaml
from ida_tui.errors import UsageError
from ida_tui.judge.backends.openai.parse import ParsedScores, ParseFailure, parse_verdict
from tests.faults import fuzz
from tests.faults.targets.table import TARGETS

CASES = {"profiles": 40, "command lines": 40, "runs": 15, "verdict caches": 15}


@pytest.fixture(autouse=True)
def isolated() -> Iterator[None]:
    with fuzz.isolated():
        yield


@pytest.mark.parametrize("kind", TARGETS)
def test_hostile_input_is_either_accepted_or_refused(kind: str) -> None:
    tally = fuzz.run_cases(range(CASES.get(kind, 200)), 1, (kind,))[kind]

    assert tally.failures == []
    assert tally.accepted
    assert tally.refused


@settings(deadline=None, max_examples=200)
@given(st.text())
def test_any_text_parses_as_yaml_or_raises_a_usage_error(text: str) -> None:
    try:
        origin = parse_yaml(text, Origin()).origin
    except UsageError:
        origin = Origin()

    assert origin == Origin()


# A number in quotes is a score, too.
WORDS = st.text().filter(lambda text: not any(character.isnumeric() for character in text))
AXIS = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), WORDS)


@settings(deadline=None, max_examples=200)
@given(st.fixed_dictionaries({"align": AXIS, "risk": AXIS, "detail": AXIS, "reason": st.text()}))
def test_a_verdict_has_exactly_the_scores_from_the_judge_or_none(given: dict[str, object]) -> None:
    import json

    parsed = parse_verdict(json.dumps(given), IDA_AXIS_NAMES)
    expected = [given[axis] for axis in IDA_AXIS_NAMES]
    valid = all(
        isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score <= 10
        for score in expected
    )
    assert isinstance(parsed, ParsedScores if valid else ParseFailure)
    if isinstance(parsed, ParsedScores):
        assert list(parsed.scores.values()) == expected
        assert parsed.reason.isprintable()
