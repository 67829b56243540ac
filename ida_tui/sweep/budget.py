"""How much of a sweep's budget is gone, and how much the next run may spend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ida_tui.config.resolve import resolve
from ida_tui.errors import UsageError
from ida_tui.runs.directory import RunDirectory
from ida_tui.sweep.status import Standing


def spent(standings: Sequence[Standing], caps: Mapping[int, float]) -> float:
    """US dollars that are gone or set aside.

    Args:
        standings: every run.
        caps: what each run that is trained now may cost, its past included, by its number.
    """
    return sum(caps[one.number] if one.number in caps else cost(one) for one in standings)


def cost(one: Standing) -> float:
    """What a run has cost; one whose cost is not known counts with all that it was allowed."""
    if one.cost is not None:
        return one.cost
    if one.run is None:
        return 0.0
    try:
        config = resolve(str(RunDirectory(one.run).config), verify=False).config
    except UsageError:
        return 0.0
    return config.budget or 0.0


def cap(
    one: Standing,
    standings: Sequence[Standing],
    caps: Mapping[int, float],
    *,
    budget: float,
    slots: int,
    own: float | None,
) -> float | None:
    """What a run may cost, its past included; None where nothing is left for it.

    Args:
        one: the run, which is not trained now.
        standings: every run, this one included.
        caps: what the runs that are trained now may cost.
        budget: US dollars for all of them.
        slots: how many runs share what is left now, this one included.
        own: the profile's own budget for a run.
    """
    left = budget - spent(standings, caps)
    if left <= 0:
        return None
    share = cost(one) + left / max(1, slots)
    return share if own is None else min(share, own)
