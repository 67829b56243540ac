"""Figures of the verdicts on one group: ties, agreement of repeated verdicts, and effect of the position."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from statistics import fmean

from ida_tui.config.scoring.axes import Scores
from ida_tui.events.types import OFFLINE_JUDGE
from ida_tui.events.values import GroupVerdicts, SampledVerdict
from ida_tui.judge.verdict import Verdict
from ida_tui.util.statistics import mean_of_known
from ida_tui.util.text import is_blank

_TINY = 1e-9
"""Rounding errors of scores and rewards are below this."""
_Order = dict[int, tuple[SampledVerdict, float]]
"""One call on a group: number of the answer → its verdict there and its mean score, in points."""


def group_verdicts(
    rows: Sequence[tuple[str, Verdict]], judged_axes: Collection[str]
) -> GroupVerdicts:
    """The figures of one group.

    Args:
        rows: the answer of each completion, without its thought, and its verdict.
        judged_axes: the axes that the judge scores.
    """
    answers = [(text, verdict) for text, verdict in rows if not is_blank(text)]
    rewards = [(text, v.reward) for text, v in answers if v.reward is not None]
    pairs = [
        abs(first - second) <= _TINY
        for (text, first), (other, second) in itertools.combinations(rewards, 2)
        if text != other
    ]
    repeated = (_spread(scores, judged_axes) for scores in _repeated(answers))
    spreads = [spread for spread in repeated if spread is not None]
    effects = _effects([verdict for _, verdict in answers])
    return GroupVerdicts(
        pairs=len(pairs),
        ties=sum(pairs),
        repeats=len(spreads),
        equal=sum(spread <= _TINY for spread in spreads),
        spread=fmean(spreads) if spreads else 0.0,
        early_minus_late=fmean(effects) if effects else None,
        places=_places([verdict for _, verdict in answers]),
        samples=max((len(own.samples) for _, v in answers for own in _judges(v)), default=0) or 1,
    )


def position_differences(verdicts: Sequence[Verdict]) -> list[float]:
    """Points that each answer gets more in the first half of an order than in the second half of its reverse.

    Args:
        verdicts: the verdicts on the answers of one group.

    Returns:
        One value for each answer that was in both halves; the orders 2n and 2n + 1 are each other's reverse.
    """
    by_answer: dict[int, list[float]] = defaultdict(list)
    for orders in _orders(verdicts).values():
        for number in orders:
            if number % 2 or number + 1 not in orders:
                continue
            first, second = orders[number], orders[number + 1]
            for answer in first.keys() & second.keys():
                sides = [_half(order[answer][0]) for order in (first, second)]
                scores = [order[answer][1] for order in (first, second)]
                if sides[0] * sides[1] < 0:
                    by_answer[answer].append(sides[0] * (scores[0] - scores[1]))
    return [fmean(differences) for differences in by_answer.values()]


def _effects(verdicts: Sequence[Verdict]) -> list[float]:
    """Estimates of the points that the first half of an order gets more than the second, from one group.

    Reversed orders compare each answer with itself. One order compares other answers, in random order.
    """
    if differences := position_differences(verdicts):
        return differences
    effects = []
    for order in (order for orders in _orders(verdicts).values() for order in orders.values()):
        early = [score for sample, score in order.values() if _half(sample) > 0]
        late = [score for sample, score in order.values() if _half(sample) < 0]
        if early and late:
            effects.append(fmean(early) - fmean(late))
    return effects


def _places(verdicts: Sequence[Verdict]) -> tuple[float | None, ...]:
    """The mean score at each place of the orders minus that of the whole order; empty without orders."""
    deviations: dict[int, list[float]] = defaultdict(list)
    shown = 0
    for order in (order for orders in _orders(verdicts).values() for order in orders.values()):
        mean = fmean(score for _, score in order.values())
        for sample, score in order.values():
            assert sample.position is not None
            shown = max(shown, sample.shown)
            deviations[sample.position].append(score - mean)
    return tuple(
        round(fmean(deviations[place]), 4) if place in deviations else None
        for place in range(shown)
    )


def _orders(verdicts: Sequence[Verdict]) -> dict[str, dict[int, _Order]]:
    """The calls on a whole group: judge → number of the order → its answers."""
    orders: dict[str, dict[int, _Order]] = defaultdict(lambda: defaultdict(dict))
    for answer, verdict in enumerate(verdicts):
        for sample in (sample for own in _judges(verdict) for sample in own.samples):
            score = mean_of_known(sample.scores.values())
            if sample.position is not None and score is not None:
                orders[sample.judge][sample.number][answer] = (sample, score)
    return orders


def _half(sample: SampledVerdict) -> int:
    """1 for an answer in the first half of its order, −1 in the second half, 0 in the middle."""
    position = sample.position or 0
    half = sample.shown // 2
    return (position < half) - (position >= sample.shown - half)


def _judges(verdict: Verdict) -> tuple[Verdict, ...]:
    """The verdict of each judge."""
    return verdict.members or (verdict,)


def _repeated(answers: Sequence[tuple[str, Verdict]]) -> Iterator[list[Scores]]:
    """The scores of each answer that one judge has scored several times, in separate calls.

    In one call on a whole group the judge sees that two answers are equal, so that they count as one.
    """
    scores: dict[tuple[str, str], list[Scores]] = defaultdict(list)
    seen: set[tuple[str, str, int]] = set()
    for text, own in ((text, own) for text, verdict in answers for own in _judges(verdict)):
        if not own.has_scores or own.judge == OFFLINE_JUDGE:
            continue
        if not own.samples:
            scores[text, own.judge].append(own.scores)
        for sample in own.samples:
            key = (text, sample.judge, sample.number)
            if sample.position is None or key not in seen:
                scores[text, sample.judge].append(sample.scores)
            seen.add(key)
    return (several for several in scores.values() if len(several) > 1)


def _spread(verdicts: Sequence[Scores], judged_axes: Collection[str]) -> float | None:
    """Highest minus lowest score, in points; the mean over the judged axes."""
    spreads = []
    for axis in judged_axes:
        known = [score for own in verdicts if (score := own.get(axis)) is not None]
        if len(known) > 1:
            spreads.append(max(known) - min(known))
    return mean_of_known(spreads)
