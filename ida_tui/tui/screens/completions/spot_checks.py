"""Spot checks: the user's agreement with the judge's scores, for the completions screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store import spot_checks
from ida_tui.runs.store.spot_checks import CompletionKey, SpotCheck
from ida_tui.tui.screens.completions.rows import CompletionRow
from ida_tui.util.intervals import binomial_interval


class SpotChecks:
    """The spot checks of one run.

    Args:
        directory: the run directory; None before the run has one.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = None if directory is None else RunDirectory(directory)
        self._newest: dict[CompletionKey, SpotCheck] = {}
        self.reload()

    def reload(self) -> None:
        """Read the spot checks from disk, including those of other processes."""
        if self._directory is not None:
            self._newest = spot_checks.newest_checks(self._directory)

    def record(self, row: CompletionRow, agree: bool | None, now: datetime) -> bool:
        """Save a spot check; returns False if the completion has no scores or the run no directory.

        Args:
            row: the completion.
            agree: whether the scores are right; None clears the spot check.
            now: the current time, UTC.

        Raises:
            OSError: the spot check could not be written.
        """
        if self._directory is None or row.reward is None:
            return False
        time = now.isoformat(timespec="seconds").replace("+00:00", "Z")
        check = SpotCheck(row.step, row.group, row.index, agree, time=time)
        spot_checks.append_check(self._directory, check)
        self.reload()
        return True

    def annotate(self, rows: Sequence[CompletionRow]) -> list[CompletionRow]:
        """Copies of the completions with `agree` set from the spot checks."""
        if not self._newest:
            return list(rows)
        agreed = {key: check.agree for key, check in self._newest.items()}
        return [replace(row, agree=agreed.get((row.step, row.group, row.index))) for row in rows]

    def summary(self) -> str:
        """Rate of agreement with its 95% interval; empty without spot checks."""
        hits = sum(check.agree is True for check in self._newest.values())
        total = len(self._newest)
        if not total:
            return ""
        share = binomial_interval(hits, total)
        low, high = 100 * share.low, 100 * share.high
        return f"you agree with {hits} of {total} (95%: {low:.0f}–{high:.0f}%)"
