"""Queue of a sweep's runs: which comes next. A grid has a fixed order; a search asks a study (`study`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ida_tui.sweep.directory import Sweep
from ida_tui.sweep.status import TrialStatus


class RunQueue(Protocol):
    """The order of the runs of a sweep, and what becomes of their results."""

    def next(self) -> int | None:
        """The number of the next run, started earlier or not; None if there is none at the moment."""

    def values(self, number: int) -> Mapping[str, str]:
        """The combination of a run that the queue has returned: dotted key → value."""

    def should_prune(self, trial: TrialStatus) -> bool:
        """Record the rewards of a live run; whether the run is worse than most others at the same step."""

    def finish(self, trial: TrialStatus) -> None:
        """Record the result of a finished run; later calls for it do nothing."""


class GridQueue:
    """The runs of a grid, in order; their results are only in their run directories.

    Args:
        sweep: the sweep.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._combinations = sweep.combinations
        self._numbers = iter(range(len(sweep.combinations)))

    def next(self) -> int | None:
        """The number of the next run."""
        return next(self._numbers, None)

    def values(self, number: int) -> Mapping[str, str]:
        """The combination of a run."""
        return self._combinations[number].values

    def should_prune(self, trial: TrialStatus) -> bool:
        """Never: every run of a grid is trained to its end."""
        return False

    def finish(self, trial: TrialStatus) -> None:
        """Do nothing: the run directory has the result."""
