"""The judge: requests, verdicts, cache, budget and calibration.

A judge scores a completion on the judged axes of a rubric, 0 to 10 each; a formula makes them one reward.
`ida_tui.judge.service.JudgeService` calls the judge on a background thread.
A failed verdict has no scores and never counts as zero. Importing this package is cheap: the
network client is imported by the first call.
"""

from ida_tui.judge.verdict import BatchStats, JudgeRequest, Verdict

__all__ = ["BatchStats", "JudgeRequest", "Verdict"]
