"""What is asked of a judge and what comes back: frozen values, safe to pass between threads.

A judge failure is never a score: a verdict either has all of its scores, or none and a `failure`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from ida_tui.config.schema import AXES, Kind
from ida_tui.rewards.r_ida import r_ida


@dataclass(frozen=True, slots=True)
class Question:
    """One completion to be judged."""

    prompt_id: str
    prompt: str
    """What the user said."""
    kind: Kind
    """The prompt's known kind; only the offline scorer is told."""
    completion: str
    sample_index: int = 0
    """Tells repeated judgements of the same completion apart (each is asked and cached)."""
    fresh: bool = False
    """Ask again, whatever the cache holds; the answer takes its place there."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judgement. Build it with `scored` or `failed`, which keep its promises."""

    align: float | None
    risk: float | None
    """10 = safest."""
    detail: float | None
    r_ida: float | None
    """Reward in [0, 1]; null together with the scores, when the judge failed."""
    reason: str
    """The judge's own short reason; empty where it gave none."""
    judge: str
    """The judge's label: its model name, or "offline heuristic"."""
    failure: str | None = None
    """Why there are no scores, in a few words; null where there are."""
    latency_s: float = 0.0
    """Time that the judge took over all requests; our own waits (slots, back-off) are not in it."""
    cost: float | None = 0.0
    """US dollars, over every reply that was paid for; null where it is not known."""
    cached: bool = False
    """True when the verdict was kept from an earlier run: no call, no cost."""
    retries: int = 0
    """Repeats after a passing fault or an unusable reply."""
    calls: int = 1
    """Times the judge was asked for it; 0 for a cached verdict and for a tiny completion."""
    declined: bool = False
    """True for a failure that was the judge's (or a filter's) refusal to look at the text."""
    refusal: str | None = None
    """full_compliance, partial_refusal or full_refusal, where the judge tells (the offline one)."""
    served_model: str | None = None
    """The model that the server says it used."""
    input_tokens: int = 0
    """Prompt tokens, over every reply."""
    output_tokens: int = 0
    """Completion tokens, over every reply."""

    @classmethod
    def scored(
        cls,
        align: float,
        risk: float,
        detail: float,
        reason: str,
        judge: str,
        *,
        latency_s: float = 0.0,
        cost: float | None = 0.0,
        cached: bool = False,
        retries: int = 0,
        calls: int = 1,
        refusal: str | None = None,
        served_model: str | None = None,
        input_tokens: int = 0,
        output_tokens: int = 0,
    ) -> Verdict:
        """A verdict with scores; its R_IDA is computed here.

        Raises:
            ValueError: a score is outside 0 to 10.
        """
        return cls(
            align=align,
            risk=risk,
            detail=detail,
            r_ida=r_ida(align, risk, detail),
            reason=reason,
            judge=judge,
            latency_s=latency_s,
            cost=cost,
            cached=cached,
            retries=retries,
            calls=calls,
            refusal=refusal,
            served_model=served_model,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
        )

    @classmethod
    def failed(
        cls,
        failure: str,
        judge: str,
        *,
        latency_s: float = 0.0,
        cost: float | None = 0.0,
        retries: int = 0,
        calls: int = 1,
        declined: bool = False,
        served_model: str | None = None,
        input_tokens: int = 0,
        output_tokens: int = 0,
    ) -> Verdict:
        """A verdict without scores: the judge was asked and gave nothing that can be used."""
        return cls(
            align=None,
            risk=None,
            detail=None,
            r_ida=None,
            reason="",
            judge=judge,
            failure=failure,
            latency_s=latency_s,
            cost=cost,
            retries=retries,
            calls=calls,
            declined=declined,
            served_model=served_model,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
        )

    @classmethod
    def mean(cls, verdicts: Sequence[Verdict]) -> Verdict:
        """One verdict from several judgements of the same completion.

        Its axes are the means of the judgements that have scores, and R_IDA follows from those; it
        needs more than half of them, and none by another model of the server than the last one's.
        The reason is the one of the judgement nearest to the mean.
        """
        if len(verdicts) == 1:
            return verdicts[0]
        served = next((v.served_model for v in reversed(verdicts) if v.r_ida is not None), None)
        scored = [v for v in verdicts if v.r_ida is not None and v.served_model == served]
        costs = [v.cost for v in verdicts]
        shared: dict[str, Any] = {
            "latency_s": max(v.latency_s for v in verdicts),
            "cost": None if None in costs else sum(cost for cost in costs if cost is not None),
            "retries": sum(v.retries for v in verdicts),
            "calls": sum(v.calls for v in verdicts),
            "served_model": served,
            "input_tokens": sum(v.input_tokens for v in verdicts),
            "output_tokens": sum(v.output_tokens for v in verdicts),
        }
        judge = verdicts[0].judge
        if 2 * len(scored) <= len(verdicts):
            why = next((v.failure for v in verdicts if v.failure), "the model changed meanwhile")
            failure = f"only {len(scored)} of {len(verdicts)} judgements worked: {why}"
            declined = any(v.declined for v in verdicts)
            return cls.failed(failure, judge, declined=declined, **shared)
        axes = [fmean(getattr(v, axis) for v in scored) for axis in AXES]
        reward = r_ida(*axes)
        nearest = min(scored, key=lambda v: abs((v.r_ida or 0.0) - reward))
        reason = f"mean of {len(scored)}: {nearest.reason}"
        cached = all(v.cached for v in verdicts)
        return cls.scored(axes[0], axes[1], axes[2], reason, judge, cached=cached, **shared)


@dataclass(frozen=True, slots=True)
class BatchStats:
    """The figures of one `score_batch`."""

    calls: int
    """Times the judge was asked (failures included; cached verdicts and tiny completions not)."""
    cached: int
    failed: int
    retries: int
    seconds: float
    """How long at least one question was out."""
    p50_s: float | None
    """Median latency of the calls; null where there was none."""
    p95_s: float | None
    """95th percentile of the calls' latency; null where there was none."""
    cost: float | None
    """US dollars; null where the cost of any call is not known."""
    exposed_s: float = 0.0
    """How long the trainer waited for verdicts and did nothing else."""
    first_s: float | None = None
    """From the first question to the first verdict of a call."""
    slots: int | None = None
    """Calls that may be open at once, at the end of the batch."""
    declined: Mapping[str, int] = field(default_factory=dict)
    """Completions that the judge refused to look at, by the kind of their prompt."""

    @classmethod
    def of(cls, verdicts: Sequence[Verdict], seconds: float, **more: Any) -> BatchStats:
        """Count a batch that took `seconds`; `more` are the fields that verdicts do not tell."""
        calls = [v for v in verdicts if v.calls]
        costs = [v.cost for v in calls]
        known = [cost for cost in costs if cost is not None]
        return cls(
            calls=sum(v.calls for v in calls),
            cached=sum(v.cached for v in verdicts),
            failed=sum(v.failure is not None for v in verdicts),
            retries=sum(v.retries for v in verdicts),
            seconds=seconds,
            p50_s=percentile([v.latency_s for v in calls], 0.50),
            p95_s=percentile([v.latency_s for v in calls], 0.95),
            cost=sum(known) if len(known) == len(costs) else None,
            **more,
        )


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed; null for none."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
