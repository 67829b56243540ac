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
from typing import Literal, NamedTuple

from ida_tui.errors import UsageError
from ida_tui.events.state import Completion, first_window, last_window
from ida_tui.rewards.formulas import Formula
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store.completions import read_completions
from ida_tui.util.paths import display_path
from ida_tui.util.statistics import mean_of_known, pearson, ranks

RewardScale = Literal["group", "batch", "none"]
STD_EPSILON = 1e-4
"""Added to the standard deviation before the division, as in TRL."""
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
    directory: RunDirectory,
    formula: Formula,
    *,
    old_scale: RewardScale,
    new_scale: RewardScale,
    after_step: int = 0,
) -> RescoreResult:
    """Recompute the rewards and advantages of all stored completions of a run.

    Args:
        directory: the run directory.
        formula: the new formula.
        old_scale: the `scale_rewards` of the run.
        new_scale: the `scale_rewards` to use with the new formula.
        after_step: the last step before the current scoring of the run; it and earlier ones are left out.

    Raises:
        UsageError: the run has no scored completions, they cannot be read, or the formula has a value for
            none of them.
    """
    steps: list[StepRewards] = []
    old_advantages: list[float] = []
    new_advantages: list[float] = []
    examples: list[RescoredCompletion] = []
    unscored = undefined = rank_changes = sign_changes = 0
    lowest, highest = math.inf, -math.inf
    for step, completions in read_completions(directory):
        if step <= after_step:
            continue
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
            old_advantages.append(completion.old_advantage)
            new_advantages.append(completion.new_advantage)
            rank_changes += completion.rank_changed
            sign_changes += completion.sign_changed
            lowest, highest = (
                min(lowest, completion.new_reward),
                max(highest, completion.new_reward),
            )
        examples = _most_changed([*examples, *rescored])
    if not old_advantages:
        raise _no_rewards_error(directory, formula, undefined)
    return RescoreResult(
        formula=formula,
        old_scale=old_scale,
        new_scale=new_scale,
        steps=tuple(steps),
        completions=len(old_advantages),
        unscored=unscored,
        undefined=undefined,
        rank_changes=rank_changes,
        sign_changes=sign_changes,
        correlation=pearson(old_advantages, new_advantages),
        lowest_new_reward=lowest,
        highest_new_reward=highest,
        examples=tuple(examples),
    )


def compute_advantages(
    groups: Sequence[Sequence[float | None]], scale: RewardScale
) -> list[list[float]]:
    """Compute the advantages of one step's completions, as TRL does but without torch.

    Args:
        groups: the rewards of each group; None for a failed verdict.
        scale: the divisor: the standard deviation of the group (`group`), that of all rewards of the
            step (`batch`), or 1 (`none`).

    Returns:
        One list per group, in the order of the rewards: (reward − group mean) / divisor. 0 where the
        reward is None, or where fewer than two rewards leave the standard deviation undefined.
    """
    step_deviation = _sample_std([reward for group in groups for reward in group])
    advantages_by_group = []
    for group in groups:
        scored = [reward for reward in group if reward is not None]
        mean = fmean(scored) if scored else 0.0
        deviation = {"none": 1.0, "batch": step_deviation, "group": _sample_std(group)}[scale]
        # TRL computes with NaN and replaces an undefined advantage by 0.
        divisor = deviation if scale == "none" or deviation is None else deviation + STD_EPSILON
        advantages_by_group.append(
            [
                0.0 if reward is None or divisor is None else (reward - mean) / divisor
                for reward in group
            ]
        )
    return advantages_by_group


def _sample_std(rewards: Sequence[float | None]) -> float | None:
    """The sample standard deviation of the rewards; None for fewer than two."""
    scored = [reward for reward in rewards if reward is not None]
    if len(scored) < 2:
        return None
    mean = fmean(scored)
    return math.sqrt(sum((reward - mean) ** 2 for reward in scored) / (len(scored) - 1))


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
    reward = completion.scored.reward if completion.scored else None
    return None if reward is None else round(reward, TIE_DECIMALS)


def _new_reward(completion: Completion, formula: Formula) -> float | None:
    scored = completion.scored
    if scored is None or scored.reward is None:
        return None
    known = {axis: score for axis, score in scored.scores.items() if score is not None}
    if not all(axis in known for axis in formula.axes):
        return None
    try:
        return round(formula.reward(known), TIE_DECIMALS)
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
