"""Budget of a sweep: the amount spent so far, and the limit of the next run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ida_tui.config.resolve import resolve
from ida_tui.errors import UsageError
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store.judge_costs import recorded_spending
from ida_tui.sweep.status import TrialStatus


def committed_cost(trials: Sequence[TrialStatus], cost_limits: Mapping[int, float]) -> float:
    """US dollars that are spent or reserved.

    Args:
        trials: the status of every run.
        cost_limits: by number, the cost limit of each active run, including what it has already cost.
    """
    return sum(
        cost_limits[trial.number] if trial.number in cost_limits else run_cost(trial)
        for trial in trials
    )


def run_cost(trial: TrialStatus) -> float:
    """US dollars that a run has cost; a run with unknown cost counts with its full budget."""
    if trial.cost is not None:
        recorded = recorded_spending(RunDirectory(trial.run)) if trial.run is not None else 0.0
        return max(trial.cost, recorded)
    if trial.run is None:
        return 0.0
    try:
        config = resolve(str(RunDirectory(trial.run).config), verify=False).config
    except UsageError:
        return 0.0
    return config.budget or 0.0


def run_cost_limit(
    trial: TrialStatus,
    trials: Sequence[TrialStatus],
    cost_limits: Mapping[int, float],
    *,
    budget: float,
    slots: int,
    run_budget: float | None,
) -> float | None:
    """The cost limit of a run in US dollars, including what it has already cost; None if nothing is left.

    Args:
        trial: the run, which is not active.
        trials: the status of every run, including this one.
        cost_limits: the cost limits of the active runs.
        budget: US dollars for all runs together.
        slots: number of runs that share the remaining budget, including this one.
        run_budget: budget per run in the profile.
    """
    remaining = budget - committed_cost(trials, cost_limits)
    if remaining <= 0:
        return None
    share = run_cost(trial) + remaining / max(1, slots)
    return share if run_budget is None else min(share, run_budget)
