"""Completions as reward functions see them, and the scores that they get."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Messages = Sequence[Mapping[str, str]]
"""Chat messages, with role and content."""
TokenIds = Callable[[str], Sequence[int]]
"""The token ids of a text, without a template."""


@dataclass(frozen=True, slots=True)
class RewardRow:
    """One completion, as reward functions see it."""

    prompt_id: str
    prompt: str
    """Text of the user's last message."""
    messages: Messages
    """The conversation before the completion, as chat messages with role and content."""
    completion: str
    completion_ids: Sequence[int] = ()
    """Token ids of the completion; empty where no model has generated it."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The other columns of the prompt's row."""


@dataclass(frozen=True, slots=True)
class ComputedScores:
    """What the functions computed for one completion."""

    scores: Mapping[str, float | None]
    """The score on each computed axis; None where it failed."""
    failures: Mapping[str, str]
    """Why each failed axis has no score."""

    @property
    def failure(self) -> str | None:
        """All failures in one line; None without any."""
        axes_by_text: dict[str, list[str]] = {}
        for axis, text in self.failures.items():
            axes_by_text.setdefault(text, []).append(axis)
        return "; ".join(f"{', '.join(axes)}: {t}" for t, axes in axes_by_text.items()) or None
