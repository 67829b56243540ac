"""Rewards of a run recomputed from its stored scores with another formula.

There are no judge calls, and nothing is written. The result does not predict what another formula would
have trained, because the policy learned from the original rewards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import NamedTuple

from ida_tui.analysis.advantages import RewardScale, compute_advantages
from ida_tui.errors import UsageError
from ida_tui.events.state import Completion, first_window, last_window
from ida_tui.rewards.formulas import Formula
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store.completions import read_completions
from ida_tui.util.paths import display_path
from ida_tui.util.statistics import mean_of_known, pearson, ranks

MAX_EXAMPLES = 3
TIE_DECIMALS = 9
"""Decimals to which rewards are rounded, so that rounding errors do not break ties."""


@dataclass(frozen=True, slots=True)
class RescoredCompletion:
    """One scored completion under both formulas."""

    completion: Completion
    old_reward: float
    """The reward in the run."""
    new_reward: float
    """The reward of the new formula."""
    old_rank: float
    """The rank in its group by reward, 1 is the highest; ties share their mean rank."""
    new_rank: float
    old_advantage: float
    new_advantage: float

    @property
    def rank_changed(self) -> bool:
        """Whether its rank in the group changes."""
        return self.old_rank != self.new_rank

    @property
    def sign_changed(self) -> bool:
        """Whether the sign of its advantage (positive, zero, negative) changes."""
        return _advantage_sign(self.old_advantage) != _advantage_sign(self.new_advantage)


class StepRewards(NamedTuple):
    """The mean rewards of one step; None if no completion of the step has a reward."""

    step: int
    old: float | None
    new: float | None


@dataclass(frozen=True, slots=True)
class RescoreResult:
    """The rewards of a run recomputed with another formula."""

    formula: Formula
    old_scale: RewardScale
    new_scale: RewardScale
    steps: tuple[StepRewards, ...]
    completions: int
    """Completions with a reward under both formulas."""
    unscored: int
    """Completions with a failed verdict."""
    undefined: int
    """Completions for which the formula has no value, such as a division by zero."""
    rank_changes: int
    """Completions whose rank in their group changes."""
    sign_changes: int
    """Completions whose advantage changes its sign."""
    correlation: float | None
    """Pearson's r between the old and the new advantages; None if undefined."""
    lowest_new_reward: float
    """The lowest reward of the new formula."""
    highest_new_reward: float
    """The highest reward of the new formula."""
    examples: tuple[RescoredCompletion, ...]
    """The completions with the largest changes, largest first."""

    def mean_first_and_last(self, *, new: bool) -> tuple[float, float]:
        """Mean reward over the first and over the last steps, as in the summary of a run."""
        values = [v for step in self.steps if (v := step.new if new else step.old) is not None]
        first, last = first_window(len(values)), last_window(len(values))
        return fmean(values[:first]), fmean(values[-last:])


def rescore(
    directory: RunDirectory, formula: Formula, *, old_scale: RewardScale, new_scale: RewardScale
) -> RescoreResult:
    """Recompute the rewards and advantages of all stored completions of a run.

    Args:
        directory: the run directory.
        formula: the new formula.
        old_scale: the `scale_rewards` of the run.
        new_scale: the `scale_rewards` to use with the new formula.

    Raises:
        UsageError: the run has no scored completions, they cannot be read, or the formula has a value for
            none of them.
    """
    steps: list[StepRewards] = []
    pairs: tuple[list[float], list[float]] = ([], [])
    examples: list[RescoredCompletion] = []
    unscored = undefined = moved = turned = 0
    lowest, highest = math.inf, -math.inf
    for step, completions in read_completions(directory):
        groups = _split_groups(completions)
        old = [[_old_reward(c) for c in group] for group in groups]
        new = [[_new_reward(c, formula) for c in group] for group in groups]
        steps.append(StepRewards(step, _mean_reward(old), _mean_reward(new)))
        scored, valued = (
            sum(r is not None for group in side for r in group) for side in (old, new)
        )
        unscored += len(completions) - scored
        undefined += scored - valued
        rescored = _rescore_step(groups, old, new, old_scale, new_scale)
        for completion in rescored:
            pairs[0].append(completion.old_advantage)
            pairs[1].append(completion.new_advantage)
            moved, turned = moved + completion.rank_changed, turned + completion.sign_changed
            lowest, highest = (
                min(lowest, completion.new_reward),
                max(highest, completion.new_reward),
            )
        examples = _most_changed([*examples, *rescored])
    if not pairs[0]:
        raise _no_rewards_error(directory, formula, undefined)
    return RescoreResult(
        formula=formula,
        old_scale=old_scale,
        new_scale=new_scale,
        steps=tuple(steps),
        completions=len(pairs[0]),
        unscored=unscored,
        undefined=undefined,
        rank_changes=moved,
        sign_changes=turned,
        correlation=pearson(*pairs),
        lowest_new_reward=lowest,
        highest_new_reward=highest,
        examples=tuple(examples),
    )


def _no_rewards_error(directory: RunDirectory, formula: Formula, undefined: int) -> UsageError:
    """The error if no completion has a reward under both formulas."""
    path = display_path(directory.path)
    if undefined:
        return UsageError(
            f"the formula {formula.name} has no value for any completion of {path}",
            "check the formula for a division by 0 or the root of a negative number",
        )
    return UsageError(
        f"{path} has no scored completions",
        f"choose a run with scores in its {directory.completions.name}",
    )


def _mean_reward(groups: Sequence[Sequence[float | None]]) -> float | None:
    return mean_of_known(reward for group in groups for reward in group)


def _split_groups(completions: Sequence[Completion]) -> list[list[Completion]]:
    return [list(group) for _, group in groupby(completions, key=lambda c: c.finished.group)]


def _old_reward(completion: Completion) -> float | None:
    reward = completion.scored.r_ida if completion.scored else None
    return None if reward is None else round(reward, TIE_DECIMALS)


def _new_reward(completion: Completion, formula: Formula) -> float | None:
    scored = completion.scored
    if scored is None or scored.r_ida is None:
        return None
    if scored.align is None or scored.risk is None or scored.detail is None:
        return None
    try:
        return round(formula.reward(scored.align, scored.risk, scored.detail), TIE_DECIMALS)
    except (ArithmeticError, ValueError):
        return None


def _rescore_step(
    groups: Sequence[Sequence[Completion]],
    old: Sequence[Sequence[float | None]],
    new: Sequence[Sequence[float | None]],
    old_scale: RewardScale,
    new_scale: RewardScale,
) -> list[RescoredCompletion]:
    """The completions of one step that have a reward under both formulas."""
    rescored = []
    old_advantages, new_advantages = (
        compute_advantages(old, old_scale),
        compute_advantages(new, new_scale),
    )
    for number, group in enumerate(groups):
        rewards = [
            (index, old_reward, new_reward)
            for index, (old_reward, new_reward) in enumerate(
                zip(old[number], new[number], strict=True)
            )
            if old_reward is not None and new_reward is not None
        ]
        old_ranks = ranks([-old_reward for _, old_reward, _ in rewards])
        new_ranks = ranks([-new_reward for _, _, new_reward in rewards])
        for (index, old_reward, new_reward), old_rank, new_rank in zip(
            rewards, old_ranks, new_ranks, strict=True
        ):
            rescored.append(
                RescoredCompletion(
                    group[index],
                    old_reward,
                    new_reward,
                    old_rank,
                    new_rank,
                    old_advantages[number][index],
                    new_advantages[number][index],
                )
            )
    return rescored


def _most_changed(rescored: Sequence[RescoredCompletion]) -> list[RescoredCompletion]:
    """The completions with the largest changes: of sign first, then of rank, then of advantage."""
    changed = [c for c in rescored if c.rank_changed or c.sign_changed]
    changed.sort(
        key=lambda c: (
            not c.sign_changed,
            -abs(c.new_rank - c.old_rank),
            -abs(c.new_advantage - c.old_advantage),
        )
    )
    return changed[:MAX_EXAMPLES]


def _advantage_sign(advantage: float) -> int:
    return 0 if abs(advantage) < 10**-TIE_DECIMALS else 1 if advantage > 0 else -1
