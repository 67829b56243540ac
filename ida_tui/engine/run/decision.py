"""Decision on how to resume a paused run. A separate module, so that a screen can use it without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ida_tui.config.schema import JudgeConfig


@dataclass(frozen=True, slots=True)
class ResumeDecision:
    """Resume with this judge."""

    judge: JudgeConfig
    key: str | None
    """The judge's API key, or null if it needs none; never written to disk."""
    budget: float | None
    """Most that the judge may cost over the full run, in US dollars; null for no limit."""
