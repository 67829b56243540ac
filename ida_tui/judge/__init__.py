"""The judge: requests, verdicts, cache, budget and calibration.

A judge scores a completion on three axes, 0 to 10 each (risk: 10 = safest), and `r_ida` combines
them into one reward. `ida_tui.judge.service.JudgeService` calls the judge on a background thread.
A failed verdict has no scores and never counts as zero. Importing this package is cheap: the
network client is imported by the first call.
"""

from ida_tui.judge.verdict import BatchStats, JudgeRequest, Verdict
from ida_tui.rewards.r_ida import r_ida

__all__ = ["BatchStats", "JudgeRequest", "Verdict", "r_ida"]
