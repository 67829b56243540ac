"""Judge requests, verdicts and batch statistics: frozen values, safe to pass between threads.

A verdict of a judge has either all of its scores, or none and a `failure`. A failed verdict never counts as
zero.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from ida_tui.config.conversation import Context
from ida_tui.config.schema import PromptKind
from ida_tui.config.scoring.axes import JUDGED_RANGE, Scores
from ida_tui.events.values import JudgeMember, JudgeTraffic, JudgeWork, SampledVerdict
from ida_tui.rewards.formulas import Formula
from ida_tui.rewards.functions import ComputedScores
from ida_tui.util.statistics import mean_of_known


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
    context: Context = ()
    """The messages before the prompt, the system prompt first."""
    checks: tuple[str, ...] = ()
    """Additional checks for this prompt, from the column `rubric` of its row."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's reply on one completion, parsed. Create it with `scored` or `failed`."""

    scores: Scores
    """The score on each judged axis, 0 to 10; empty in a failed verdict."""
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
    """Verdicts requested from the judge; 0 for a cached verdict and for an empty completion.

    A call for a whole group counts for the first verdict of the group only.
    """
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
    reward: float | None = None
    """The reward of the scores; None if one is missing, or until `with_reward`."""
    members: tuple[Verdict, ...] = ()
    """The verdict of each judge of a panel, in the order of the profile; empty for a single judge."""
    spread: Mapping[str, float] = field(default_factory=dict)
    """Highest minus lowest score of the panel's judges on each axis; empty for a single judge."""
    samples: tuple[SampledVerdict, ...] = ()
    """The verdicts that the scores combine, with positions in group mode; empty for one absolute verdict."""

    @property
    def has_scores(self) -> bool:
        """Whether the judge scored the completion."""
        return self.failure is None

    @property
    def known_scores(self) -> dict[str, float]:
        """The scores without those that are unknown."""
        return {axis: score for axis, score in self.scores.items() if score is not None}

    def with_reward(self, formula: Formula) -> Verdict:
        """The verdict with its reward; a failed verdict if the formula has no value for its scores.

        A formula that reads axes without scores, such as computed ones, leaves the reward open.
        """
        scores = self.known_scores
        if self.failure is not None or not all(axis in scores for axis in formula.axes):
            return self
        try:
            return replace(self, reward=formula.reward(scores))
        except (ArithmeticError, ValueError) as error:
            failure = f"the formula {formula.name} has no value: {error}"
            return replace(self, scores={}, reward=None, failure=failure)

    def with_computed(self, computed: ComputedScores, formula: Formula) -> Verdict:
        """The verdict with computed scores beside the judged ones, and the reward of all of them.

        Where a score failed that the formula reads, there is no reward, and `failure` says why.
        """
        scores: dict[str, float | None] = {**self.scores, **computed.scores}
        failure = "; ".join(text for text in (self.failure, computed.failure) if text) or None
        known = {axis: score for axis, score in scores.items() if score is not None}
        if all(axis in known for axis in formula.axes):
            try:
                reward = formula.reward(known)
                # An axis that is shown, but not rewarded, has failed.
                reason = f"{self.reason} ({failure})".strip() if failure else self.reason
                return replace(self, scores=scores, reward=reward, failure=None, reason=reason)
            except (ArithmeticError, ValueError) as error:
                failure = f"the formula {formula.name} has no value: {error}"
        return replace(self, scores=scores, reward=None, failure=failure)

    @classmethod
    def scored(
        cls,
        scores: Mapping[str, float],
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
        """Create a verdict with scores.

        Raises:
            ValueError: a score is NaN or outside 0 to 10. Scores are never clamped.
        """
        low, high = JUDGED_RANGE
        for axis, score in scores.items():
            if not low <= score <= high:  # NaN fails every comparison
                raise ValueError(f"{axis} must be between {low:g} and {high:g}, not {score:g}")
        return cls(
            scores=scores,
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
            scores={},
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
    def mean(cls, verdicts: Sequence[Verdict], first_number: int = 0) -> Verdict:
        """Average several verdicts on the same completion; `first_number` is the number of the first one.

        The axes are the means over the scored verdicts of the model that the server reported last. The result
        is a failed verdict unless more than half of `verdicts` count. The reason comes from the verdict whose
        scores are nearest to the means.
        """
        if len(verdicts) == 1:
            return verdicts[0]
        served = next((v.served_model for v in reversed(verdicts) if v.has_scores), None)
        scored = [v for v in verdicts if v.has_scores and v.served_model == served]
        shared = {**combined_figures(verdicts), "served_model": served}
        judge = verdicts[0].judge
        if 2 * len(scored) <= len(verdicts):
            first_failure = next((v.failure for v in verdicts if v.failure), "the model changed")
            failure = f"only {len(scored)} of {len(verdicts)} verdicts count: {first_failure}"
            declined = any(v.declined for v in verdicts)
            return cls.failed(failure, judge, declined=declined, **shared)
        means = {axis: fmean(v.scores[axis] or 0.0 for v in scored) for axis in scored[0].scores}

        def distance(verdict: Verdict) -> float:
            return sum(abs((verdict.scores[axis] or 0.0) - mean) for axis, mean in means.items())

        reason = f"mean of {len(scored)}: {min(scored, key=distance).reason}"
        cached = all(v.cached for v in verdicts)
        samples = tuple(
            sample
            for number, verdict in enumerate(verdicts, start=first_number)
            if verdict.has_scores and verdict.served_model == served
            for sample in verdict.samples or [verdict.as_sample(number)]
        )
        mean = cls.scored(means, reason, judge, cached=cached, **shared)
        return replace(mean, samples=samples)

    def as_sample(self, number: int, position: int | None = None, shown: int = 1) -> SampledVerdict:
        """The scores as one of several verdicts on the completion.

        Args:
            number: number of the verdict, from 0.
            position: place of the completion in the order that the judge saw; None if it saw no other one.
            shown: completions that the judge saw.
        """
        return SampledVerdict(self.judge, number, position, shown, self.scores)


def combined_figures(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Latency, cost, retries, calls and tokens of several verdicts that were requested side by side."""
    costs = [v.cost for v in verdicts]
    return {
        "latency_s": max(v.latency_s for v in verdicts),
        "cost": None if None in costs else sum(cost for cost in costs if cost is not None),
        "retries": sum(v.retries for v in verdicts),
        "calls": sum(v.calls for v in verdicts),
        "input_tokens": sum(v.input_tokens for v in verdicts),
        "output_tokens": sum(v.output_tokens for v in verdicts),
    }


def share_of_call(verdict: Verdict, number: int, count: int) -> Verdict:
    """The verdict on completion `number` of a group of `count`, from one with the figures of its whole call.

    Cost and tokens of the shares add up to those of the call; the first one has its retries and counts as the
    call.
    """
    cost = verdict.cost
    if cost is not None:
        equal = cost / count
        # The difference of two numbers this close is exact, so that the sum is exactly the cost.
        cost = equal if number < count - 1 else cost - sum([equal] * (count - 1))
    return replace(
        verdict,
        cost=cost,
        calls=0 if number else verdict.calls,
        retries=0 if number else verdict.retries,
        input_tokens=_share(verdict.input_tokens, number, count),
        output_tokens=_share(verdict.output_tokens, number, count),
    )


def _share(total: int, number: int, count: int) -> int:
    return total // count + (number < total % count)


def mean_scores(verdicts: Sequence[Verdict]) -> dict[str, float | None]:
    """The mean of the known scores on each axis; None where none is known, empty without verdicts."""
    axes = dict.fromkeys(axis for verdict in verdicts for axis in verdict.scores)
    return {axis: mean_of_known(v.scores.get(axis) for v in verdicts) for axis in axes}


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
    members: tuple[JudgeMember, ...] = ()
    """What each judge of a panel scored; empty for a single judge."""
    spread: Mapping[str, float] = field(default_factory=dict)
    """Mean spread of a panel's judges on each axis; empty for a single judge."""
    failure: str = ""
    """The most common reason of the failed verdicts; empty without any."""
    traffic: tuple[JudgeTraffic, ...] = ()
    """The calls to each judge; empty without calls."""

    @property
    def work(self) -> JudgeWork:
        """What the judge did, as an event has it."""
        return JudgeWork(
            self.calls, self.cached, self.failed, self.retries, self.seconds, self.failure
        )

    @classmethod
    def from_verdicts(cls, verdicts: Sequence[Verdict], seconds: float, **extra: Any) -> BatchStats:
        """Compute the statistics of a batch that took `seconds`; `extra` sets the other fields."""
        calls = [v for v in verdicts if v.calls]
        costs = [v.cost for v in verdicts]
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
            members=_member_figures(verdicts),
            spread=_mean_spread(verdicts),
            failure=_most_common_failure(verdicts),
            **extra,
        )


def _member_figures(verdicts: Sequence[Verdict]) -> tuple[JudgeMember, ...]:
    """What each judge of a panel scored; empty for a single judge."""
    figures = []
    for of_member in zip(*(v.members for v in verdicts if v.members), strict=True):
        figures.append(
            JudgeMember(
                name=of_member[0].judge,
                scored=sum(v.has_scores for v in of_member),
                completions=len(of_member),
                failure=_most_common_failure(of_member),
            )
        )
    return tuple(figures)


def _most_common_failure(verdicts: Sequence[Verdict]) -> str:
    failures = Counter(v.failure for v in verdicts if v.failure is not None)
    return failures.most_common(1)[0][0] if failures else ""


def _mean_spread(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """The mean spread on each axis over the verdicts of a panel."""
    spreads = [v.spread for v in verdicts if v.spread]
    return (
        {axis: fmean(spread[axis] for spread in spreads) for axis in spreads[0]} if spreads else {}
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed; None for no values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
