"""One run as a line in a list. Nothing is imported for it: `ida-tui runs` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

RunStatus = Literal[
    "live",
    "died",
    "done",
    "failed",
    "interrupted",
    "judge_unavailable",
    "out_of_memory",
    "stopped_by_alert",
    "unreadable",
]


class RunSummary(NamedTuple):
    """One run, as a line in a list."""

    path: Path
    experiment: str
    run_id: str
    started_at: str
    """UTC, ISO 8601; empty if not known."""
    status: RunStatus
    model: str = ""
    judge: str = ""
    steps_done: int = 0
    steps: int = 0
    """Planned."""
    r_ida_first: float | None = None
    r_ida_last: float | None = None
    cost: float | None = None
    """US dollars; None where it is not known."""
    seconds: float | None = None
    problem: str = ""
    """Why it cannot be read."""
