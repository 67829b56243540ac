"""Summary of one run for lists, without slow imports, so that `ida-tui runs` starts fast."""

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
    """Summary of one run, as shown in lists."""

    path: Path
    experiment: str
    run_id: str
    started_at: str
    """UTC, ISO 8601; empty if unknown."""
    status: RunStatus
    model: str = ""
    judge: str = ""
    steps_done: int = 0
    steps: int = 0
    """Planned number of steps."""
    reward: str = ""
    """Name of the reward; empty if unknown."""
    reward_first: float | None = None
    reward_last: float | None = None
    cost: float | None = None
    """US dollars; None if unknown."""
    seconds: float | None = None
    """Time of training, without pauses; None while the run is live, or if it died."""
    problem: str = ""
    """Why the run cannot be read; empty if it can."""
