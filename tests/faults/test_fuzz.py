"""Hostile input by the hundred: no traceback, no hang, nothing that a terminal acts on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ida_tui.config.yaml_tree import Origin, parse_yaml
from ida_tui.errors import UsageError
from ida_tui.judge.backends.openai.parse import ParsedScores, ParseFailure, parse_verdict
from tests.faults import fuzz
from tests.faults.targets import TARGETS

CASES = {"profiles": 40, "command lines": 40, "runs": 15, "verdict caches": 15}


@pytest.fixture(autouse=True)
def apart() -> Iterator[None]:
    with fuzz.workplace():
        yield


@pytest.mark.parametrize("kind", TARGETS)
def test_hostile_input_is_accepted_or_refused_and_nothing_else(kind: str) -> None:
    tally = fuzz.run(range(CASES.get(kind, 200)), 1, (kind,))[kind]

    assert tally.failures == []
    assert tally.accepted
    assert tally.refused


@settings(deadline=None, max_examples=200)
@given(st.text())
def test_any_text_as_yaml_is_a_tree_or_a_usage_error(text: str) -> None:
    try:
        found = parse_yaml(text, Origin()).origin
    except UsageError:
        found = Origin()

    assert found == Origin()


AXIS = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text())


@settings(deadline=None, max_examples=200)
@given(st.fixed_dictionaries({"align": AXIS, "risk": AXIS, "detail": AXIS, "reason": st.text()}))
def test_a_verdict_has_the_scores_that_the_judge_gave_or_none(given: dict[str, object]) -> None:
    import json

    found = parse_verdict(json.dumps(given))
    wanted = [given[axis] for axis in ("align", "risk", "detail")]
    good = all(
        isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x <= 10 for x in wanted
    )
    assert isinstance(found, ParsedScores if good else ParseFailure)
    if isinstance(found, ParsedScores):
        assert [found.align, found.risk, found.detail] == wanted
        assert found.reason.isprintable()
