"""Comparison of prompts by their text; another id, spacing or case does not make another prompt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar


class HasText(Protocol):
    """A prompt."""

    @property
    def text(self) -> str:
        """Text of the user's message."""


P = TypeVar("P", bound=HasText)


def normalize_prompt(text: str) -> str:
    """A prompt's text for comparison: case-folded, without extra spaces or outer punctuation."""
    words = " ".join(text.casefold().split())
    start, end = 0, len(words)
    while start < end and not _is_word_character(words[start]):
        start += 1
    while start < end and not _is_word_character(words[end - 1]):
        end -= 1
    # A text without any letter or digit has nothing but punctuation.
    return words[start:end] or words


def _is_word_character(character: str) -> bool:
    return character.isalnum() or character == "_"


def separate_repeated(
    prompts: Iterable[P], trained: Iterable[P] = ()
) -> tuple[list[P], list[tuple[P, P]]]:
    """Separate the prompts whose text is among the trained ones or repeats an earlier one.

    Args:
        prompts: the prompts, such as the held-out ones.
        trained: the training prompts.

    Returns:
        The other prompts, in order, and the repeated ones, each with the prompt that it repeats.
    """
    first = {normalize_prompt(prompt.text): prompt for prompt in trained}
    distinct: list[P] = []
    repeated: list[tuple[P, P]] = []
    for prompt in prompts:
        earlier = first.setdefault(normalize_prompt(prompt.text), prompt)
        if earlier is prompt:
            distinct.append(prompt)
        else:
            repeated.append((prompt, earlier))
    return distinct, repeated
