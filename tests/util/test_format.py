"""Figures as text: counts with their nouns, and signs."""

from __future__ import annotations

import pytest

from ida_tui.util.format import format_count, format_number, format_signed, format_significant


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 prompts"), (1, "1 prompt"), (2, "2 prompts"), (1200, "1,200 prompts")],
)
def test_a_noun_agrees_with_its_number(count: int, text: str) -> None:
    assert format_count(count, "prompt") == text


def test_every_negative_figure_has_a_minus_sign_instead_of_a_hyphen() -> None:
    assert format_number(-0.494) == "−0.494"
    assert format_significant(-1.5e-7) == "−1.5e-07"
    assert format_signed(-0.494, 3) == "−0.494"
