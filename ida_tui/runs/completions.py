"""Read the completions of any step back from ``completions.jsonl``, one step at a time."""

from __future__ import annotations

from pathlib import Path

from ida_tui.state import Completion


class CompletionStore:
    """An index over a growing ``completions.jsonl``: only byte positions are held in memory.

    Args:
        path: the file; it may not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def refresh(self) -> None:
        """Take in what was appended since the last time."""

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that have scored completions, in order."""
        return ()

    def load(self, step: int) -> tuple[Completion, ...]:
        """The completions of one step with their verdicts, in the order they were written."""
        return ()
