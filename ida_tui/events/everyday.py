"""Answers to everyday questions before and after training: bounds, and wording.

A model that has learned one task must still answer everything else about as well as before. Length,
repetition and perplexity need no judge, and show a model that is broken. They do not show one that is
slightly worse.
"""

from __future__ import annotations

from collections.abc import Iterator

from ida_tui.events.values import EverydayFigures
from ida_tui.util.format import format_count, format_number, format_percent

MAX_LENGTH_RATIO = 2.0
"""The mean length may grow or shrink by this factor."""
MAX_REPETITION_RISE = 0.1
"""The share of repeated word 4-grams may rise by this much."""
MAX_PERPLEXITY_RATIO = 1.5
"""The perplexity of the untrained model's answers may grow by this factor."""


def bounds_problems(figures: EverydayFigures) -> list[str]:
    """What is outside the bounds, each as a phrase; empty if nothing is."""
    return list(_problems(figures))


def _problems(figures: EverydayFigures) -> Iterator[str]:
    ratio = figures.length_after / max(1.0, figures.length_before)
    if not 1 / MAX_LENGTH_RATIO <= ratio <= MAX_LENGTH_RATIO:
        yield f"the length changed by more than a factor of {MAX_LENGTH_RATIO:g}"
    if figures.repetition_after - figures.repetition_before > MAX_REPETITION_RISE:
        yield f"repetition rose by more than {100 * MAX_REPETITION_RISE:g} points"
    if not figures.perplexity_after <= MAX_PERPLEXITY_RATIO * figures.perplexity_before:
        yield f"perplexity rose by more than a factor of {MAX_PERPLEXITY_RATIO:g}"


def everyday_sentence(figures: EverydayFigures) -> str:
    """One sentence on the figures, and whether they are within the bounds."""
    problems = bounds_problems(figures)
    verdict = f"outside the bounds: {', '.join(problems)}" if problems else "within the bounds"
    return (
        f"On {format_count(figures.questions, 'everyday question')}, answers have"
        f" {figures.length_before:.0f} → {figures.length_after:.0f} tokens, repeated 4-grams"
        f" {format_percent(figures.repetition_before, 1)} → {format_percent(figures.repetition_after, 1)},"
        f" perplexity of the untrained model's answers {format_number(figures.perplexity_before, 2)} →"
        f" {format_number(figures.perplexity_after, 2)}: {verdict}."
    )
