"""Judges: what scores a completion, from a rubric to R_IDA.

A judge answers on three axes, 0 to 10 each (risk: 10 = safest), and `r_ida` makes one reward of
them. `ida_tui.judge.service.JudgeService` asks it from a thread of its own. A judge failure is
never a score. Importing this package is cheap: the network client comes with the first call.
"""

from ida_tui.judge.verdict import BatchStats, Question, Verdict
from ida_tui.rewards.r_ida import r_ida

__all__ = ["BatchStats", "Question", "Verdict", "r_ida"]
