"""Totals of a run's judge: calls, failures, time and cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ida_tui.events import types as ev
from ida_tui.util.replace import replace

MAX_RECENT_BATCHES = 10
"""Number of batches whose calls are stored."""


@dataclass(frozen=True, slots=True)
class JudgeTotals:
    """Totals of the judge since the start of the run."""

    batches: int = 0
    calls: int = 0
    cached: int = 0
    failed: int = 0
    retries: int = 0
    seconds: float = 0.0
    exposed_s: float = 0.0
    cost: float | None = 0.0
    """None if the price of at least one call is unknown."""
    estimated: int = 0
    """Calls without a reply, whose estimated cost is included."""
    declined: tuple[tuple[str, int], ...] = ()
    """Number of completions that the judge refused to score, by kind of prompt."""
    failure: str = ""
    """The reason of failed verdicts in the newest batch that had any; empty if unknown."""
    last: ev.JudgeBatchFinished | None = None
    recent: tuple[ev.JudgeBatchFinished, ...] = ()
    """The newest batches since the start of the run, or since it was last resumed, oldest first."""
    slowed_after: int | None = None
    """Number of batches before the judge last rejected calls; None if it never did."""

    @property
    def throttled(self) -> bool:
        """Whether the judge rejected calls in the `recent` batches."""
        return self.slowed_after is not None and self.slowed_after >= self.batches - len(
            self.recent
        )


def add_judge_batches(totals: JudgeTotals, batches: Sequence[ev.JudgeBatchFinished]) -> JudgeTotals:
    """The totals with more batches, in order."""
    if not batches:
        return totals
    calls, cached, failed, retries = totals.calls, totals.cached, totals.failed, totals.retries
    seconds, exposed_s, failure = totals.seconds, totals.exposed_s, totals.failure
    cost, estimated = totals.cost, totals.estimated
    declined = Counter(dict(totals.declined))
    for batch in batches:
        calls += batch.calls
        cached += batch.cached
        failed += batch.failed
        retries += batch.retries
        seconds += batch.seconds
        exposed_s += batch.exposed_s
        failure = batch.failure or failure
        cost, estimated = _added_cost(cost, estimated, batch.judge_cost, batch.cost)
        if batch.declined:
            declined += Counter(batch.declined)
    return replace(
        totals,
        batches=totals.batches + len(batches),
        calls=calls,
        cached=cached,
        failed=failed,
        retries=retries,
        seconds=seconds,
        exposed_s=exposed_s,
        cost=cost,
        estimated=estimated,
        declined=tuple(sorted(declined.items())),
        failure=failure,
        last=batches[-1],
        recent=(*totals.recent, *batches)[-MAX_RECENT_BATCHES:],
    )


def add_evaluation(totals: JudgeTotals, evaluation: ev.EvaluationFinished) -> JudgeTotals:
    """The totals with the verdicts of an evaluation on the held-out prompts."""
    totals = with_cost(totals, evaluation.judge_cost, evaluation.cost)
    work = evaluation.judge_work
    if work is None:
        return totals
    return replace(
        totals,
        calls=totals.calls + work.calls,
        cached=totals.cached + work.cached,
        failed=totals.failed + work.failed,
        retries=totals.retries + work.retries,
        seconds=totals.seconds + work.seconds,
        failure=work.failure or totals.failure,
    )


def with_cost(
    totals: JudgeTotals, recorded: ev.JudgeCost | None, added: float | None = 0.0
) -> JudgeTotals:
    """The totals with the cost that an event records; in an old run, with the cost that it adds."""
    cost, estimated = _added_cost(totals.cost, totals.estimated, recorded, added)
    return replace(totals, cost=cost, estimated=estimated)


def _added_cost(
    cost: float | None, estimated: int, recorded: ev.JudgeCost | None, added: float | None
) -> tuple[float | None, int]:
    """Cost and number of estimated calls after an event that records the cost, or adds to it."""
    if recorded is not None:
        return recorded.cost, recorded.estimated
    return (None if cost is None or added is None else cost + added), estimated
