"""What a person says of a judge's scores, as the completions screen holds and shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store import spot_checks as spotchecks
from ida_tui.runs.store.spot_checks import Place, SpotCheck
from ida_tui.tui.screens.completions.rows import Sample
from ida_tui.util.statistics import wilson


class SpotChecks:
    """The words on one run's completions.

    Args:
        directory: the run's; None before there is one.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = None if directory is None else RunDirectory(directory)
        self._newest: dict[Place, SpotCheck] = {}
        self.read()

    def read(self) -> None:
        """Take in what was said, here or elsewhere."""
        if self._directory is not None:
            self._newest = spotchecks.newest(self._directory)

    def say(self, sample: Sample, agree: bool | None, now: datetime) -> bool:
        """Keep a word on a completion's scores; False where it has none, or no place to keep it.

        Raises:
            OSError: the disk refused it.
        """
        if self._directory is None or sample.reward is None:
            return False
        time = now.isoformat(timespec="seconds").replace("+00:00", "Z")
        check = SpotCheck(sample.step, sample.group, sample.index, agree, time=time)
        spotchecks.add(self._directory, check)
        self.read()
        return True

    def on(self, samples: Sequence[Sample]) -> list[Sample]:
        """The same samples, with what was said of their scores."""
        if not self._newest:
            return list(samples)
        said = {place: check.agree for place, check in self._newest.items()}
        return [replace(s, agree=said.get((s.step, s.group, s.index))) for s in samples]

    def words(self) -> str:
        """How often a person agreed with the judge, with its interval; empty where nobody has looked."""
        hits = sum(check.agree is True for check in self._newest.values())
        of = len(self._newest)
        if not of:
            return ""
        share = wilson(hits, of)
        low, high = 100 * share.low, 100 * share.high
        return f"you agree with {hits} of {of} (95 %: {low:.0f} to {high:.0f} %)"
