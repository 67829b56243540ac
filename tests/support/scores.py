"""Scores and verdicts of the shipped axes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from ida_tui.judge.verdict import Verdict
from ida_tui.rewards.r_ida import r_ida


def ida_scores(align: float, risk: float, detail: float) -> dict[str, float]:
    """The scores by axis."""
    return dict(zip(IDA_AXIS_NAMES, (align, risk, detail), strict=True))


def ida_verdict(
    align: float, risk: float, detail: float, reason: str = "", judge: str = "m", **fields: Any
) -> Verdict:
    """A verdict with these scores and their R_IDA."""
    verdict = Verdict.scored(ida_scores(align, risk, detail), reason, judge, **fields)
    return replace(verdict, reward=r_ida(align, risk, detail))
