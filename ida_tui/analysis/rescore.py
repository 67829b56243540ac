"""What another formula would have paid: a finished run, re-scored from the scores it kept.

Nobody is asked, and nothing is written. What the model would have become is not known: it learned from the
rewards that it got.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import NamedTuple

from ida_tui.analysis.advantages import Scale, advantages
from ida_tui.errors import UsageError
from ida_tui.events.state import Completion, first_window, last_window
from ida_tui.rewards.formulas import Formula
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store.completions import stored
from ida_tui.util.paths import shown_path
from ida_tui.util.statistics import mean_of, pearson, ranks

EXAMPLES = 3
DIGITS = 9
"""Rewards that agree to so many decimals are a tie: what is left is rounding."""


@dataclass(frozen=True, slots=True)
class Rescored:
    """One completion that has scores, under both formulas."""

    completion: Completion
    old: float
    """The reward that it got."""
    new: float
    old_rank: float
    """Its place in its group by reward, 1 is the best; equal ones share their mean place."""
    new_rank: float
    old_advantage: float
    new_advantage: float

    @property
    def moved(self) -> bool:
        """Whether it has another place in its group."""
        return self.old_rank != self.new_rank

    @property
    def turned(self) -> bool:
        """Whether what was pushed up would have been pushed down or left alone, or the other way round."""
        return _sign(self.old_advantage) != _sign(self.new_advantage)


class StepRewards(NamedTuple):
    """The mean rewards of one step; None where nothing in it was scored."""

    step: int
    old: float | None
    new: float | None


@dataclass(frozen=True, slots=True)
class Rescoring:
    """A run under another formula."""

    formula: Formula
    old_scale: Scale
    scale: Scale
    steps: tuple[StepRewards, ...]
    completions: int
    """Those that have a reward under both formulas."""
    unscored: int
    """Those that the judge gave no verdict on."""
    undefined: int
    """Those that the formula has no value for, such as a division by zero."""
    moved: int
    """Completions with another place in their group."""
    turned: int
    """Completions whose advantage has another sign."""
    correlation: float | None
    """Pearson's r between the advantages."""
    lowest: float
    highest: float
    examples: tuple[Rescored, ...]
    """Those that would have changed most, the most first."""

    def first_and_last(self, *, new: bool) -> tuple[float, float]:
        """Mean reward over the first steps and over the last ones, as the end of a run tells them."""
        values = [v for step in self.steps if (v := step.new if new else step.old) is not None]
        first, last = first_window(len(values)), last_window(len(values))
        return fmean(values[:first]), fmean(values[-last:])


def rescore(
    directory: RunDirectory, formula: Formula, *, old_scale: Scale, scale: Scale
) -> Rescoring:
    """Score every stored completion of a run again.

    Args:
        directory: the run.
        formula: makes one reward of the three scores.
        old_scale: how the run scaled its advantages.
        scale: how they are scaled under the formula.

    Raises:
        UsageError: the run has kept no scores, they cannot be read, or the formula has a value for none.
    """
    steps: list[StepRewards] = []
    pairs: tuple[list[float], list[float]] = ([], [])
    examples: list[Rescored] = []
    unscored = undefined = moved = turned = 0
    lowest, highest = math.inf, -math.inf
    for step, completions in stored(directory):
        groups = _groups(completions)
        old = [[_old(c) for c in group] for group in groups]
        new = [[_new(c, formula) for c in group] for group in groups]
        steps.append(StepRewards(step, _mean(old), _mean(new)))
        scored, valued = (
            sum(r is not None for group in side for r in group) for side in (old, new)
        )
        unscored += len(completions) - scored
        undefined += scored - valued
        found = _step(groups, old, new, old_scale, scale)
        for one in found:
            pairs[0].append(one.old_advantage)
            pairs[1].append(one.new_advantage)
            moved, turned = moved + one.moved, turned + one.turned
            lowest, highest = min(lowest, one.new), max(highest, one.new)
        examples = _most_changed([*examples, *found])
    if not pairs[0]:
        raise _nothing(directory, formula, undefined)
    return Rescoring(
        formula=formula,
        old_scale=old_scale,
        scale=scale,
        steps=tuple(steps),
        completions=len(pairs[0]),
        unscored=unscored,
        undefined=undefined,
        moved=moved,
        turned=turned,
        correlation=pearson(*pairs),
        lowest=lowest,
        highest=highest,
        examples=tuple(examples),
    )


def _nothing(directory: RunDirectory, formula: Formula, undefined: int) -> UsageError:
    where = shown_path(directory.path)
    if undefined:
        return UsageError(
            f"the formula {formula.name} has no value for any completion of {where}",
            "look for a division by 0, or a root of a negative number",
        )
    return UsageError(
        f"{where} has no scored completions", f"they would be in {directory.completions.name}"
    )


def _mean(groups: Sequence[Sequence[float | None]]) -> float | None:
    return mean_of([reward for group in groups for reward in group])


def _groups(completions: Sequence[Completion]) -> list[list[Completion]]:
    return [list(group) for _, group in groupby(completions, key=lambda c: c.finished.group)]


def _old(completion: Completion) -> float | None:
    reward = completion.scored.r_ida if completion.scored else None
    return None if reward is None else round(reward, DIGITS)


def _new(completion: Completion, formula: Formula) -> float | None:
    scored = completion.scored
    if scored is None or scored.r_ida is None:
        return None
    if scored.align is None or scored.risk is None or scored.detail is None:
        return None
    try:
        return round(formula.reward(scored.align, scored.risk, scored.detail), DIGITS)
    except (ArithmeticError, ValueError):
        return None


def _step(
    groups: Sequence[Sequence[Completion]],
    old: Sequence[Sequence[float | None]],
    new: Sequence[Sequence[float | None]],
    old_scale: Scale,
    scale: Scale,
) -> list[Rescored]:
    out = []
    before, after = advantages(old, old_scale), advantages(new, scale)
    for number, group in enumerate(groups):
        both = [
            (at, one, other)
            for at, (one, other) in enumerate(zip(old[number], new[number], strict=True))
            if one is not None and other is not None
        ]
        old_ranks = ranks([-one for _, one, _ in both])
        new_ranks = ranks([-other for _, _, other in both])
        for (at, one, other), rank, new_rank in zip(both, old_ranks, new_ranks, strict=True):
            out.append(
                Rescored(
                    group[at], one, other, rank, new_rank, before[number][at], after[number][at]
                )
            )
    return out


def _most_changed(rescored: Sequence[Rescored]) -> list[Rescored]:
    changed = [one for one in rescored if one.moved or one.turned]
    changed.sort(
        key=lambda one: (
            not one.turned,
            -abs(one.new_rank - one.old_rank),
            -abs(one.new_advantage - one.old_advantage),
        )
    )
    return changed[:EXAMPLES]


def _sign(advantage: float) -> int:
    return 0 if abs(advantage) < 10**-DIGITS else 1 if advantage > 0 else -1
