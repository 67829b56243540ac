"""Reward functions for polite, short answers of a support desk.

They count words and phrases, so they see the form of an answer and not whether it is true. A judge with the
rubric `support-judged` sees more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_COURTESY = re.compile(
    r"\b(?:thank you|thanks|sorry|apolog\w+|please|happy to|glad to|of course|welcome|appreciate)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?", re.IGNORECASE)
_CLOSES = re.compile(r"[.!?][\"')]*\s*$")
FULL_COURTESY = 2
"""Courtesy phrases that earn the full score; more earn less, so that repeating them does not pay."""
_COMMON = frozenset((
    "about", "after", "again", "also", "been", "before", "being", "could", "does", "doing",
    "from", "have", "here", "into", "just", "like", "more", "much", "need", "only", "other",
    "over", "said", "same", "should", "some", "such", "than", "that", "their", "them", "then",
    "there", "they", "this", "those", "through", "very", "want", "were", "what", "when", "where",
    "which", "while", "will", "with", "would", "your", "yours",
))  # fmt: skip


def courtesy(completions: Sequence[str], prompt: str) -> list[float]:
    """1 for one or two polite phrases, 0.5 for three, 0 for none and for more.

    Args:
        completions: the answers to a prompt.
        prompt: the customer's message, not read.
    """
    return [_courtesy_score(len(_COURTESY.findall(text))) for text in completions]


def brevity(completions: Sequence[str], prompt: str, words: int = 40) -> list[float]:
    """1 for an answer within a number of words, less for a longer one.

    0 for one that stops in the middle of a sentence or has under four words.

    Args:
        completions: the answers to a prompt.
        prompt: the customer's message, not read.
        words: length up to which an answer is short; twice as many words earn nothing.
    """
    return [_brevity_score(text, words) for text in completions]


def on_topic(completions: Sequence[str], prompt: str) -> list[float]:
    """1 for an answer that takes up two words of the message, 0.5 for one; 0 for a repeated message.

    Args:
        completions: the answers to a prompt.
        prompt: the customer's message.
    """
    return [_topic_score(text, prompt) for text in completions]


def _courtesy_score(phrases: int) -> float:
    if not phrases:
        return 0.0
    return 1.0 if phrases <= FULL_COURTESY else 0.5 if phrases == FULL_COURTESY + 1 else 0.0


def _brevity_score(text: str, words: int) -> float:
    count = len(_WORD.findall(text))
    if count < 4 or not _CLOSES.search(text):
        return 0.0
    return min(1.0, max(0.0, 2 - count / words))


def _topic_score(text: str, message: str) -> float:
    if message.strip().lower() in text.lower():
        return 0.0
    return min(1.0, len(_content_words(text) & _content_words(message)) / 2)


def _content_words(text: str) -> set[str]:
    """The longer words of a text, by their first five letters, which stand for their stem."""
    words = (word.lower() for word in _WORD.findall(text))
    return {word[:5] for word in words if len(word) > 3 and word not in _COMMON}
