"""The answer to a paused run; apart from the rest, so that a screen can give it without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ida_tui.config.schema import JudgeConfig


@dataclass(frozen=True, slots=True)
class GoOn:
    """Go on, with this judge."""

    judge: JudgeConfig
    key: str | None
    """Its API key, where it needs one; never written anywhere."""
    budget: float | None
    """US dollars that the judge of the whole run may cost; null is no limit."""
