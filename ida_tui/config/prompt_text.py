"""Comparison of prompts by their text and context; another id, spacing or case makes no other prompt."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from typing import Protocol, TypeVar


class HasText(Protocol):
    """A prompt."""

    @property
    def text(self) -> str:
        """Text of the user's message."""

    @property
    def system(self) -> str | None:
        """Its own system prompt."""

    @property
    def history(self) -> Sequence[object]:
        """The messages before it."""


P = TypeVar("P", bound=HasText)
MEANINGFUL_PUNCTUATION = frozenset("_#%&*@/\\-")
"""Punctuation that makes another text, as in -5 and C#."""


def normalize_prompt(text: str) -> str:
    """A prompt's text for comparison: case-folded, without extra spaces or outer punctuation."""
    words = " ".join(text.casefold().split())
    start, end = 0, len(words)
    while start < end and _is_outer_punctuation(words[start]):
        start += 1
    while start < end and _is_outer_punctuation(words[end - 1]):
        end -= 1
    # A text may have nothing but punctuation.
    return words[start:end] or words


def _is_outer_punctuation(character: str) -> bool:
    """Whether a character around a text says nothing: punctuation, a space, an invisible mark."""
    return unicodedata.category(character)[0] in "PZC" and character not in MEANINGFUL_PUNCTUATION


def _identity(prompt: HasText) -> Hashable:
    """What makes a prompt another one: its text, and the conversation before it."""
    return normalize_prompt(prompt.text), prompt.system, tuple(prompt.history)


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
    first = {_identity(prompt): prompt for prompt in trained}
    distinct: list[P] = []
    repeated: list[tuple[P, P]] = []
    for prompt in prompts:
        earlier = first.setdefault(_identity(prompt), prompt)
        if earlier is prompt:
            distinct.append(prompt)
        else:
            repeated.append((prompt, earlier))
    return distinct, repeated
