"""Which completions a report shows: the best, the worst, and the first beside the last of the same prompt.

    chosen = choose(stored(directory), kinds)

One pass, which holds a few completions of each prompt. Where rewards are equal the later one is shown.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ida_tui.events.state import Completion

SHOWN = 4
"""Completions of one list."""
PAIRS = 4
LAST_STEPS = 5
"""How many steps "at the end" are."""

_Ranked = tuple[float, tuple[int, int, int], Completion]
"""What is largest stays: reward or its negative, then the place in the run."""


class Pair(NamedTuple):
    """Two completions of the same prompt."""

    first: Completion
    last: Completion


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is shown."""

    best: tuple[Completion, ...] = ()
    worst: tuple[Completion, ...] = ()
    worst_unsafe: tuple[Completion, ...] = ()
    worst_at_the_end: tuple[Completion, ...] = ()
    pairs: tuple[Pair, ...] = ()
    scored: int = 0
    """Completions with a verdict, of all."""
    unscored: int = 0


@dataclass(slots=True)
class _Few:
    """The few of each prompt that rank highest, with texts that differ."""

    by_prompt: dict[str, list[_Ranked]] = field(default_factory=dict)

    def offer(self, rank: float, completion: Completion) -> None:
        one = completion.finished
        kept = self.by_prompt.setdefault(one.prompt_id, [])
        entry = (rank, (one.step, one.group, one.index), completion)
        same = next((n for n, e in enumerate(kept) if e[2].finished.text == one.text), None)
        if same is not None:
            if entry[:2] > kept[same][:2]:
                kept[same] = entry
                heapq.heapify(kept)
        elif len(kept) < SHOWN:
            heapq.heappush(kept, entry)
        elif entry[:2] > kept[0][:2]:
            heapq.heapreplace(kept, entry)

    def best(self, without: Sequence[Completion] = ()) -> tuple[Completion, ...]:
        """The highest of all but those: first one of each prompt, then more of the same ones."""
        shown = {(one.finished.step, one.finished.group, one.finished.index) for one in without}
        turns = [
            (turn, *entry)
            for kept in self.by_prompt.values()
            for turn, entry in enumerate(sorted(kept, key=lambda entry: entry[:2], reverse=True))
            if entry[1] not in shown
        ]
        few = sorted(turns, key=lambda one: (-one[0], *one[1:3]), reverse=True)[:SHOWN]
        # Shown in order of reward, not of turn.
        return tuple(one[-1] for one in sorted(few, key=lambda one: one[1:3], reverse=True))


def choose(
    steps: Iterable[tuple[int, Sequence[Completion]]], kinds: Mapping[str, str], last_step: int
) -> Chosen:
    """Choose from the completions of a run.

    Args:
        steps: each step's number and completions, in order.
        kinds: prompt id → ``harmless`` or ``unsafe``.
        last_step: the newest step of the run.
    """
    best, worst, unsafe, at_the_end = _Few(), _Few(), _Few(), _Few()
    firsts: dict[str, Completion] = {}
    lasts: dict[str, Completion] = {}
    scored = unscored = 0
    for step, completions in steps:
        groups: dict[str, list[tuple[float, Completion]]] = {}
        for one in completions:
            reward = one.scored.r_ida if one.scored is not None else None
            if reward is None:
                unscored += 1
                continue
            scored += 1
            best.offer(reward, one)
            worst.offer(-reward, one)
            if kinds.get(one.finished.prompt_id) == "unsafe":
                unsafe.offer(-reward, one)
            if step > last_step - LAST_STEPS:
                at_the_end.offer(-reward, one)
            groups.setdefault(one.finished.prompt_id, []).append((reward, one))
        for prompt, group in groups.items():
            # Neither the luckiest nor the unluckiest sample: the one in the middle.
            middle = sorted(group, key=lambda rewarded: rewarded[0])[len(group) // 2][1]
            firsts.setdefault(prompt, middle)
            lasts[prompt] = middle
    lowest, lowest_unsafe = worst.best(), unsafe.best()
    return Chosen(
        best=best.best(),
        worst=lowest,
        worst_unsafe=lowest_unsafe,
        worst_at_the_end=at_the_end.best(without=(*lowest, *lowest_unsafe)),
        pairs=_pairs(firsts, lasts, kinds),
        scored=scored,
        unscored=unscored,
    )


def _pairs(
    firsts: Mapping[str, Completion], lasts: Mapping[str, Completion], kinds: Mapping[str, str]
) -> tuple[Pair, ...]:
    """The prompts that were asked longest apart, unsafe ones among them where there are any."""
    apart = [
        Pair(first, lasts[prompt])
        for prompt, first in firsts.items()
        if lasts[prompt].finished.step > first.finished.step
    ]
    apart.sort(key=lambda p: p.first.finished.step - p.last.finished.step)
    unsafe = [pair for pair in apart if kinds.get(pair.first.finished.prompt_id) == "unsafe"]
    others = [pair for pair in apart if pair not in unsafe]
    few = unsafe[: max(PAIRS // 2, PAIRS - len(others))]
    return (*others[: PAIRS - len(few)], *few)
