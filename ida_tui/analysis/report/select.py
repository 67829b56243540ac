"""Completions selected for a report: the best, the worst, and the first and last for the same prompt.

    selected = select_completions(read_completions(directory), kinds, last_step)

A single pass that holds a few completions per prompt in memory. Among equal rewards the later completion is
shown.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ida_tui.events.state import Completion

LIST_LENGTH = 4
"""Number of completions in each list."""
MAX_PAIRS = 4
LAST_STEPS = 5
"""Number of final steps that "Worst in the last steps" covers."""

_Ranked = tuple[float, tuple[int, int, int], Completion]
"""Sort key (reward or its negative), position in the run, and completion; the largest are selected."""


class CompletionPair(NamedTuple):
    """An early and a late completion of the same prompt."""

    first: Completion
    last: Completion


@dataclass(frozen=True, slots=True)
class SelectedCompletions:
    """The completions that a report shows."""

    best: tuple[Completion, ...] = ()
    worst: tuple[Completion, ...] = ()
    worst_unsafe: tuple[Completion, ...] = ()
    worst_in_last_steps: tuple[Completion, ...] = ()
    pairs: tuple[CompletionPair, ...] = ()
    scored: int = 0
    """Number of completions with a verdict."""
    unscored: int = 0
    """Number of completions without a verdict."""


@dataclass(slots=True)
class _TopCompletions:
    """The highest-ranked completions of each prompt, with distinct texts."""

    by_prompt: dict[str, list[_Ranked]] = field(default_factory=dict)

    def add(self, rank: float, completion: Completion) -> None:
        finished = completion.finished
        ranked = self.by_prompt.setdefault(finished.prompt_id, [])
        entry = (rank, (finished.step, finished.group, finished.index), completion)
        duplicate = next(
            (n for n, e in enumerate(ranked) if e[2].finished.text == finished.text), None
        )
        if duplicate is not None:
            if entry[:2] > ranked[duplicate][:2]:
                ranked[duplicate] = entry
                heapq.heapify(ranked)
        elif len(ranked) < LIST_LENGTH:
            heapq.heappush(ranked, entry)
        elif entry[:2] > ranked[0][:2]:
            heapq.heapreplace(ranked, entry)

    def top(self, excluding: Sequence[Completion] = ()) -> tuple[Completion, ...]:
        """The highest-ranked completions, except those given, from as many prompts as possible."""
        excluded = {
            (item.finished.step, item.finished.group, item.finished.index) for item in excluding
        }
        turns = [
            (turn, *entry)
            for ranked in self.by_prompt.values()
            for turn, entry in enumerate(sorted(ranked, key=lambda entry: entry[:2], reverse=True))
            if entry[1] not in excluded
        ]
        selected = sorted(turns, key=lambda item: (-item[0], *item[1:3]), reverse=True)[
            :LIST_LENGTH
        ]
        # Order by reward, not by turn.
        return tuple(
            item[-1] for item in sorted(selected, key=lambda item: item[1:3], reverse=True)
        )


def select_completions(
    steps: Iterable[tuple[int, Sequence[Completion]]],
    kinds: Mapping[str, str],
    last_step: int,
    *,
    after_step: int = 0,
) -> SelectedCompletions:
    """Select completions of a run for its report.

    Args:
        steps: number and completions of each step, in order.
        kinds: prompt id → `harmless` or `unsafe`.
        last_step: the last finished step of the run.
        after_step: the last step whose scores are not comparable with those of the last step.
    """
    best, worst, unsafe, worst_in_last_steps = (
        _TopCompletions(),
        _TopCompletions(),
        _TopCompletions(),
        _TopCompletions(),
    )
    first_by_prompt: dict[str, Completion] = {}
    last_by_prompt: dict[str, Completion] = {}
    scored = unscored = 0
    for step, completions in steps:
        if step <= after_step:
            continue
        groups: dict[str, list[tuple[float, Completion]]] = {}
        for completion in completions:
            reward = completion.scored.reward if completion.scored is not None else None
            if reward is None:
                unscored += 1
                continue
            scored += 1
            best.add(reward, completion)
            worst.add(-reward, completion)
            if kinds.get(completion.finished.prompt_id) == "unsafe":
                unsafe.add(-reward, completion)
            if step > last_step - LAST_STEPS:
                worst_in_last_steps.add(-reward, completion)
            groups.setdefault(completion.finished.prompt_id, []).append((reward, completion))
        for prompt, group in groups.items():
            # The completion with the median reward of the group.
            median = sorted(group, key=lambda rewarded: rewarded[0])[len(group) // 2][1]
            first_by_prompt.setdefault(prompt, median)
            last_by_prompt[prompt] = median
    lowest, lowest_unsafe = worst.top(), unsafe.top()
    return SelectedCompletions(
        best=best.top(),
        worst=lowest,
        worst_unsafe=lowest_unsafe,
        worst_in_last_steps=worst_in_last_steps.top(excluding=(*lowest, *lowest_unsafe)),
        pairs=_select_pairs(first_by_prompt, last_by_prompt, kinds),
        scored=scored,
        unscored=unscored,
    )


def _select_pairs(
    first_by_prompt: Mapping[str, Completion],
    last_by_prompt: Mapping[str, Completion],
    kinds: Mapping[str, str],
) -> tuple[CompletionPair, ...]:
    """Pairs of the prompts with the most steps between first and last use, including unsafe prompts."""
    candidates = [
        CompletionPair(first, last_by_prompt[prompt])
        for prompt, first in first_by_prompt.items()
        if last_by_prompt[prompt].finished.step > first.finished.step
    ]
    candidates.sort(key=lambda p: p.first.finished.step - p.last.finished.step)
    unsafe = [pair for pair in candidates if kinds.get(pair.first.finished.prompt_id) == "unsafe"]
    others = [pair for pair in candidates if pair not in unsafe]
    selected_unsafe = unsafe[: max(MAX_PAIRS // 2, MAX_PAIRS - len(others))]
    return (*others[: MAX_PAIRS - len(selected_unsafe)], *selected_unsafe)
