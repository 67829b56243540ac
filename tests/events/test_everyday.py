"""Figures of everyday questions: their bounds and their wording."""

from __future__ import annotations

import math

import pytest

from ida_tui.events.everyday import bounds_problems, everyday_sentence
from ida_tui.events.values import EverydayFigures

SAME = EverydayFigures(40, 60.0, 58.0, 0.02, 0.03, 1.40, 1.50)


def test_a_model_that_answers_as_before_is_within_the_bounds() -> None:
    assert everyday_sentence(SAME) == (
        "On 40 everyday questions, answers have 60 → 58 tokens, repeated 4-grams 2.0% → 3.0%, perplexity of"
        " the untrained model's answers 1.40 → 1.50: within the bounds."
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"length_after": 20.0}, "the length changed by more than a factor of 2"),
        ({"length_after": 130.0}, "the length changed by more than a factor of 2"),
        ({"repetition_after": 0.5}, "repetition rose by more than 10 points"),
        ({"perplexity_after": 9.0}, "perplexity rose by more than a factor of 1.5"),
        ({"perplexity_after": math.nan}, "perplexity rose by more than a factor of 1.5"),
    ],
)
def test_a_broken_model_is_named_with_what_is_wrong(change: dict[str, float], problem: str) -> None:
    broken = SAME._replace(**change)  # type: ignore[arg-type]
    assert bounds_problems(broken) == [problem]
    assert everyday_sentence(broken).endswith(f"outside the bounds: {problem}.")
