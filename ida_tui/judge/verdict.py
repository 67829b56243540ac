"""Judge requests, verdicts and batch statistics: frozen values, safe to pass between threads.

A verdict has either all of its scores, or none and a `failure`. A failed verdict never counts as zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from ida_tui.config.schema import AXES, PromptKind
from ida_tui.rewards.r_ida import r_ida


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """A request for a verdict on one completion."""

    prompt_id: str
    prompt: str
    """The text of the prompt."""
    kind: PromptKind | None
    """The prompt's known kind; only the offline judge and judge plugins see it."""
    completion: str
    sample_index: int = 0
    """Distinguishes repeated verdicts on the same completion, which are cached separately."""
    bypass_cache: bool = False
    """Bypass the cache and replace what it holds."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's reply on one completion, parsed. Create it with `scored` or `failed`."""

    align: float | None
    risk: float | None
    """10 = safest."""
    detail: float | None
    r_ida: float | None
    """The reward in [0, 1]; None together with the scores of a failed verdict."""
    reason: str
    """The judge's short reason; empty if it gave none."""
    judge: str
    """The judge's label: its model name, or "offline heuristic"."""
    failure: str | None = None
    """Why the verdict failed, in a few words; None if it has scores."""
    latency_s: float = 0.0
    """Seconds in requests to the judge, without waits for slots and retries."""
    cost: float | None = 0.0
    """US dollars over all paid replies; None if unknown."""
    cached: bool = False
    """Whether the verdict comes from the cache: no call, no cost."""
    retries: int = 0
    """Retries after transient errors and unusable replies."""
    calls: int = 1
    """Verdicts requested from the judge; 0 for a cached verdict and for an empty completion."""
    declined: bool = False
    """Whether the verdict failed because the judge or a content filter refused the text."""
    refusal: str | None = None
    """full_compliance, partial_refusal or full_refusal; only the offline judge sets it."""
    served_model: str | None = None
    """The model that the server reports."""
    input_tokens: int = 0
    """Prompt tokens over all replies."""
    output_tokens: int = 0
    """Completion tokens over all replies."""

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
        """Create a verdict with scores and compute its R_IDA.

        Raises:
            ValueError: a score is NaN or outside 0 to 10.
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
        """Create a failed verdict, which has no scores."""
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
        """Average several verdicts on the same completion.

        The axes are the means over the scored verdicts of the model that the server reported last;
        R_IDA is computed from them. The result is a failed verdict unless more than half of `verdicts`
        count. The reason comes from the verdict whose R_IDA is nearest to the mean.
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
            first_failure = next((v.failure for v in verdicts if v.failure), "the model changed")
            failure = f"only {len(scored)} of {len(verdicts)} verdicts count: {first_failure}"
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
    """Statistics of one batch of verdicts."""

    calls: int
    """Verdicts requested from the judge, including failed ones, without cached and empty ones."""
    cached: int
    failed: int
    retries: int
    seconds: float
    """Seconds during which at least one request was pending."""
    p50_s: float | None
    """Median latency of the calls; None without calls."""
    p95_s: float | None
    """95th percentile of the calls' latency; None without calls."""
    cost: float | None
    """US dollars; None if the cost of any call is unknown."""
    exposed_s: float = 0.0
    """Seconds that the trainer spent only waiting for verdicts."""
    first_s: float | None = None
    """Seconds from the first request to the first verdict."""
    slots: int | None = None
    """The limit of concurrent calls at the end of the batch."""
    declined: Mapping[str, int] = field(default_factory=dict)
    """Number of completions that the judge refused to judge, by the kind of their prompt."""

    @classmethod
    def from_verdicts(cls, verdicts: Sequence[Verdict], seconds: float, **extra: Any) -> BatchStats:
        """Compute the statistics of a batch that took `seconds`; `extra` sets the other fields."""
        calls = [v for v in verdicts if v.calls]
        costs = [v.cost for v in calls]
        known_costs = [cost for cost in costs if cost is not None]
        return cls(
            calls=sum(v.calls for v in calls),
            cached=sum(v.cached for v in verdicts),
            failed=sum(v.failure is not None for v in verdicts),
            retries=sum(v.retries for v in verdicts),
            seconds=seconds,
            p50_s=percentile([v.latency_s for v in calls], 0.50),
            p95_s=percentile([v.latency_s for v in calls], 0.95),
            cost=sum(known_costs) if len(known_costs) == len(costs) else None,
            **extra,
        )


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed; None for no values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
