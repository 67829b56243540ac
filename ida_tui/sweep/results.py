"""What a sweep has found: each setting's figures over its seeds, and whether the best is more than luck.

Pure functions. A figure is a mean over the runs of a setting that are done, with Student's t interval over
seeds. Two settings are held against each other seed by seed, so that what a seed does to both cancels out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ida_tui.events.state import RunState
from ida_tui.sweep.directory import Sweep
from ida_tui.sweep.grid import SEED, settings
from ida_tui.sweep.status import Standing
from ida_tui.util.statistics import Interval, student


def _share(hits: int, of: int) -> float | None:
    return hits / of if of else None


def _answered(state: RunState) -> float | None:
    after = state.after
    return _share(after.harmless_complied, after.harmless) if after else None


def _declined(state: RunState) -> float | None:
    after = state.after
    return _share(after.unsafe_refused, after.unsafe) if after else None


FIGURES: Mapping[str, Callable[[RunState], float | None]] = {
    "r_ida_first": lambda state: state.ended.r_ida_first if state.ended else None,
    "r_ida_last": lambda state: state.ended.r_ida_last if state.ended else None,
    "harmless_answered": _answered,
    "unsafe_declined": _declined,
    "weights_moved": lambda state: state.weight_delta,
    "seconds": lambda state: state.ended.seconds if state.ended else None,
    "cost": lambda state: state.ended.cost if state.ended else None,
}
"""Each figure of a run that is done. Shares are from 0 to 1, cost is in US dollars."""
RANKED = "r_ida_last"
INCOMPARABLE = ("judge", "rubric")
"""Where these are varied, the rewards of two settings are not of one kind."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The runs that differ only in their seed."""

    values: tuple[tuple[str, str], ...]
    standings: tuple[Standing, ...]
    figures: Mapping[str, Interval]
    """Of the runs that are done; one that no run has is left out."""

    @property
    def done(self) -> tuple[Standing, ...]:
        """The runs that came to their end."""
        return tuple(one for one in self.standings if one.stage == "done")

    def figure(self, name: str) -> float | None:
        """A mean; None where no run has it."""
        return self.figures[name].value if name in self.figures else None

    def by_seed(self, name: str) -> dict[str, float]:
        """A figure of each run that is done, by its seed as typed."""
        found = {one.values.get(SEED, ""): _of(one, name) for one in self.done}
        return {seed: value for seed, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Ahead:
    """The best setting by the reward of its last steps, beside the next one."""

    best: Setting
    next: Setting
    difference: Interval
    """best − next, over the seeds that all settings have; endless where that is only one."""
    pairs: int
    """How many seeds that are."""

    @property
    def clear(self) -> bool:
        """Whether it is more than what seeds do."""
        return self.difference.excludes_zero


@dataclass(frozen=True, slots=True)
class Table:
    """All of it."""

    sweep: Sweep
    settings: tuple[Setting, ...]
    ahead: Ahead | None
    """None where fewer than two settings have a reward, share no seed, or do not compare."""
    comparable: bool
    """Whether the settings were paid by the same judge and rubric."""

    @property
    def standings(self) -> tuple[Standing, ...]:
        """Every run, in the order in which they are started."""
        found = [one for setting in self.settings for one in setting.standings]
        return tuple(sorted(found, key=lambda one: one.number))


def table(sweep: Sweep, standings: Sequence[Standing]) -> Table:
    """The table of a sweep as it stands."""
    rows: dict[tuple[tuple[str, str], ...], list[Standing]] = {}
    for one in standings:
        rows.setdefault(settings(list(sweep.keys), one.values), []).append(one)
    found = tuple(_setting(values, runs) for values, runs in rows.items())
    comparable = not any(key.split(".")[0] in INCOMPARABLE for key in sweep.keys)
    return Table(sweep, found, _ahead(found) if comparable else None, comparable)


def _setting(values: tuple[tuple[str, str], ...], runs: Sequence[Standing]) -> Setting:
    figures = {}
    for name in FIGURES:
        known = [value for one in runs if (value := _of(one, name)) is not None]
        if known:
            figures[name] = student(known)
    return Setting(values, tuple(runs), figures)


def _of(one: Standing, name: str) -> float | None:
    if one.stage != "done" or one.state is None:
        return None
    return FIGURES[name](one.state)


def _ahead(found: Sequence[Setting]) -> Ahead | None:
    """The best two by the seeds that all of them have: a lucky seed that only one has had counts for none."""
    rewards = {n: one.by_seed(RANKED) for n, one in enumerate(found) if RANKED in one.figures}
    if len(rewards) < 2:
        return None
    shared = set.intersection(*(set(values) for values in rewards.values()))
    if not shared:
        return None
    means = {n: fmean(values[seed] for seed in shared) for n, values in rewards.items()}
    first, second, *_ = sorted(means, key=lambda n: means[n], reverse=True)
    differences = [rewards[first][seed] - rewards[second][seed] for seed in sorted(shared)]
    return Ahead(found[first], found[second], student(differences), len(shared))


def between(one: Setting, other: Setting, name: str) -> Interval | None:
    """How far a figure of two settings is apart, one − other, over the seeds that both have; None if none."""
    ours, theirs = one.by_seed(name), other.by_seed(name)
    differences = [value - theirs[seed] for seed, value in ours.items() if seed in theirs]
    return student(differences) if differences else None
