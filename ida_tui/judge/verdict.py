"""What is asked of a judge and what comes back: frozen values, safe to pass between threads.

A judge failure is never a score: a verdict either has all of its scores, or none and a `failure`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ida_tui.config import Kind
from ida_tui.judge.formula import r_ida


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
    """From the first request to the verdict, repeats included, waiting for a free slot excluded."""
    cost: float | None = 0.0
    """US dollars, over every reply that was paid for; null where it is not known."""
    cached: bool = False
    """True when the verdict was kept from an earlier run: no call, no cost."""
    retries: int = 0
    """Repeats after a passing fault or an unusable reply."""
    called: bool = True
    """False when no judge was needed: a cached verdict, or a completion without any words."""
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
        called: bool = True,
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
            called=called,
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
            served_model=served_model,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
        )


@dataclass(frozen=True, slots=True)
class BatchStats:
    """The figures of one `score_batch`."""

    calls: int
    """Completions the judge was asked about (failures included; cached and wordless ones not)."""
    cached: int
    failed: int
    retries: int
    seconds: float
    """From the first question to the last verdict."""
    p50_s: float | None
    """Median latency of the calls; null where there was none."""
    p95_s: float | None
    """95th percentile of the calls' latency; null where there was none."""
    cost: float | None
    """US dollars; null where the cost of any call is not known."""

    @classmethod
    def of(cls, verdicts: Sequence[Verdict], seconds: float) -> BatchStats:
        """Count a batch that took `seconds`."""
        calls = [v for v in verdicts if v.called]
        costs = [v.cost for v in calls]
        known = [cost for cost in costs if cost is not None]
        return cls(
            calls=len(calls),
            cached=sum(v.cached for v in verdicts),
            failed=sum(v.failure is not None for v in verdicts),
            retries=sum(v.retries for v in verdicts),
            seconds=seconds,
            p50_s=percentile([v.latency_s for v in calls], 0.50),
            p95_s=percentile([v.latency_s for v in calls], 0.95),
            cost=sum(known) if len(known) == len(costs) else None,
        )


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed; null for none."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
