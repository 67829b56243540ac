"""Results of a sweep: each setting's figures over its seeds, and whether the best setting is significant.

Pure functions. A figure is the mean over the finished runs of a setting, with Student's t interval over
seeds. Two settings are compared seed by seed, so that effects of a seed on both settings cancel out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ida_tui.events.held_out import reward_change
from ida_tui.events.state import RunState
from ida_tui.sweep.directory import Sweep
from ida_tui.sweep.grid import SEED_KEY, without_seed
from ida_tui.sweep.status import TrialStatus
from ida_tui.util.intervals import Interval, student_interval


def _fraction(hits: int, total: int) -> float | None:
    return hits / total if total else None


def _answered(state: RunState) -> float | None:
    after = state.evaluation_after
    return _fraction(after.harmless_complied, after.harmless) if after else None


def _declined(state: RunState) -> float | None:
    after = state.evaluation_after
    return _fraction(after.unsafe_refused, after.unsafe) if after else None


def _held_out_reward(state: RunState) -> tuple[float | None, float | None]:
    """The reward on the held-out prompts before and after training; None where it is unknown."""
    before, after = state.evaluation_before, state.evaluation_after
    change = reward_change(before, after, state.reward_name) if before and after else None
    if change is not None:
        return change.before, change.after
    return before.reward if before else None, after.reward if after else None


def _weights_moved(state: RunState) -> float | None:
    """The relative change of the model; None for an adapter of an older run, which did not record it."""
    movement = state.weight_movement
    return movement.share if movement and movement.is_of_model else None


FIGURES: Mapping[str, Callable[[RunState], float | None]] = {
    "reward_first": lambda state: state.ended.reward_first if state.ended else None,
    "reward_last": lambda state: state.ended.reward_last if state.ended else None,
    "held_out_first": lambda state: _held_out_reward(state)[0],
    "held_out_last": lambda state: _held_out_reward(state)[1],
    "harmless_answered": _answered,
    "unsafe_declined": _declined,
    "weights_moved": _weights_moved,
    "seconds": lambda state: state.trained_seconds() if state.ended else None,
    "cost": lambda state: state.ended.cost if state.ended else None,
}
"""Figures of a finished run. Fractions are from 0 to 1, cost is in US dollars."""
RANKING_FIGURE = "reward_last"
INCOMPARABLE_SECTIONS = ("judge", "rubric", "prompts")
"""Sections that make rewards incomparable if they are varied."""


@dataclass(frozen=True, slots=True)
class SweepSetting:
    """The runs that differ only in the seed."""

    values: Mapping[str, str]
    """Dotted key → value as typed, without the seed."""
    trials: tuple[TrialStatus, ...]
    figures: Mapping[str, Interval]
    """Figures over the finished runs; figures that no run has are left out."""

    @property
    def done_trials(self) -> tuple[TrialStatus, ...]:
        """The runs that finished training."""
        return tuple(trial for trial in self.trials if trial.stage == "done")

    def mean_of_figure(self, name: str) -> float | None:
        """The mean of a figure; None if no run has it."""
        return self.figures[name].value if name in self.figures else None

    def by_seed(self, name: str) -> dict[str, float]:
        """A figure of each finished run, by its seed as typed."""
        values = {
            trial.values.get(SEED_KEY, ""): _figure_of(trial, name) for trial in self.done_trials
        }
        return {seed: value for seed, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class SettingComparison:
    """The best setting by the reward of the last steps, compared with the second best."""

    best: SweepSetting
    runner_up: SweepSetting
    difference: Interval
    """best − second best over the seeds that all settings have; unbounded if there is only one such seed."""
    seeds: int
    """Number of seeds compared."""

    @property
    def is_significant(self) -> bool:
        """Whether the difference is larger than the noise of the seeds."""
        return self.difference.excludes_zero


@dataclass(frozen=True, slots=True)
class SweepTable:
    """The table of a sweep."""

    sweep: Sweep
    settings: tuple[SweepSetting, ...]
    """In the order of their first runs; those of a search by their reward, the best first."""
    comparison: SettingComparison | None
    """None if fewer than two settings have a reward, they share no seed, or they are not comparable."""
    comparable: bool
    """Whether the settings use the same judge, rubric and prompts."""

    @property
    def reward_name(self) -> str:
        """The name of the reward that all runs have; `reward` if they differ, or none has started."""
        names = {
            trial.state.reward_name for trial in self.trials if trial.state and trial.state.run
        }
        return names.pop() if len(names) == 1 else "reward"

    @property
    def trials(self) -> tuple[TrialStatus, ...]:
        """Every run, in the order of their numbers."""
        trials = [trial for setting in self.settings for trial in setting.trials]
        return tuple(sorted(trials, key=lambda trial: trial.number))


def build_table(sweep: Sweep, trials: Sequence[TrialStatus]) -> SweepTable:
    """Build the table of a sweep from the current status of its runs."""
    by_setting: dict[tuple[str, ...], list[TrialStatus]] = {}
    for trial in trials:
        by_setting.setdefault(tuple(without_seed(trial.values).values()), []).append(trial)
    settings = tuple(_build_setting(setting_trials) for setting_trials in by_setting.values())
    if sweep.trials is not None:
        settings = tuple(sorted(settings, key=_ranking))
    varied = any(key.split(".")[0] in INCOMPARABLE_SECTIONS for key in sweep.keys)
    comparable = not varied and _same_scoring(trials)
    return SweepTable(sweep, settings, _compare_best(settings) if comparable else None, comparable)


def _ranking(setting: SweepSetting) -> float:
    """The place of a setting in the table of a search: the best reward first, those without one last."""
    reward = setting.mean_of_figure(RANKING_FIGURE)
    return math.inf if reward is None else -reward


def _same_scoring(trials: Sequence[TrialStatus]) -> bool:
    """Whether the finished runs are scored in the same way, also after one was resumed with another judge."""
    scorings = [
        trial.state.scoring[-1]
        for trial in trials
        if trial.stage == "done" and trial.state is not None and trial.state.scoring
    ]
    return all(scoring.same_scoring(scorings[0]) for scoring in scorings)


def _build_setting(trials: Sequence[TrialStatus]) -> SweepSetting:
    figures = {}
    for name in FIGURES:
        known = [value for trial in trials if (value := _figure_of(trial, name)) is not None]
        if known:
            figures[name] = student_interval(known)
    return SweepSetting(without_seed(trials[0].values), tuple(trials), figures)


def _figure_of(trial: TrialStatus, name: str) -> float | None:
    if trial.stage != "done" or trial.state is None:
        return None
    return FIGURES[name](trial.state)


def _compare_best(settings: Sequence[SweepSetting]) -> SettingComparison | None:
    """The best two settings, compared only on seeds that all settings have."""
    rewards = {
        index: setting.by_seed(RANKING_FIGURE)
        for index, setting in enumerate(settings)
        if RANKING_FIGURE in setting.figures
    }
    if len(rewards) < 2:
        return None
    shared = set.intersection(*(set(values) for values in rewards.values()))
    if not shared:
        return None
    means = {index: fmean(values[seed] for seed in shared) for index, values in rewards.items()}
    first, second, *_ = sorted(means, key=lambda index: means[index], reverse=True)
    differences = [rewards[first][seed] - rewards[second][seed] for seed in sorted(shared)]
    return SettingComparison(
        settings[first], settings[second], student_interval(differences), len(shared)
    )


def setting_difference(setting: SweepSetting, other: SweepSetting, name: str) -> Interval | None:
    """Difference of a figure, setting − other, over the seeds of both settings; None if they share none."""
    values, other_values = setting.by_seed(name), other.by_seed(name)
    differences = [
        value - other_values[seed] for seed, value in values.items() if seed in other_values
    ]
    return student_interval(differences) if differences else None
