"""Agreement between two judges: a run's stored completions, scored again by another judge."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ida_tui.config.schema import JudgeConfig, PromptKind, RubricConfig
from ida_tui.config.scoring.axes import Scores
from ida_tui.events.state import Completion
from ida_tui.judge.backends.openai.prompt import system_message
from ida_tui.judge.collect import OnVerdictProgress, collect, received_verdict
from ida_tui.judge.errors import JudgeUnavailable
from ida_tui.judge.service import JudgeService
from ida_tui.judge.verdict import BatchStats, JudgeRequest, Verdict
from ida_tui.rewards.formulas import Formula
from ida_tui.rewards.rows import ComputedScores
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store.completions import read_completions
from ida_tui.util.statistics import MIN_CORRELATED_PAIRS, spearman

HALF_POINT = 0.5
"""Half a point on an axis."""
HALF_POINT_OF_REWARD = 0.05
"""The same share of a reward from 0 to 1."""
ROUNDING_TOLERANCE = 1e-9
"""Tolerance for floating-point rounding when differences are compared."""
_CHARS_PER_TOKEN = 4.0
_REPLY_TOKENS = 60


@dataclass(frozen=True, slots=True)
class RejudgeSample:
    """The completions to judge again, and the numbers of those left out."""

    completions: tuple[Completion, ...]
    scored_total: int
    """Scored completions of the run from which they are drawn."""
    unscored: int
    """Completions with a failed verdict of the run's judge, which cannot be compared."""
    unknown_prompts: int
    """Completions whose prompt is not among the run's prompts."""


@dataclass(frozen=True, slots=True)
class JudgeAgreement:
    """Agreement of two judges on one axis or on the reward."""

    figure: str
    """Name of the axis; empty for the reward."""
    pairs: int
    """Number of completions that both judges scored."""
    spearman: float | None
    """Spearman's rank correlation; None if undefined, or for too few pairs."""
    exact: float
    """Share of equal pairs."""
    within_half: float
    """Share of pairs within half a point out of ten; for the reward, within 0.05."""
    within_one: float
    """Share of pairs within one point out of ten; for the reward, within 0.1."""
    difference: float
    """Mean of the new judge's score minus the score of the run's judge."""


@dataclass(frozen=True, slots=True)
class RejudgeResult:
    """The result of judging completions again."""

    requested: int
    """Verdicts requested."""
    received: int
    """Verdicts received, including failed ones."""
    scored: int
    """Verdicts received with scores."""
    agreements: tuple[JudgeAgreement, ...]
    """One per axis and one for the reward; empty if no verdict has scores."""
    stats: BatchStats
    interrupted: bool
    """Whether the user canceled the remaining calls."""
    unavailable: JudgeUnavailable | None
    """The error that prevented the remaining calls."""


def draw_completions(
    directory: RunDirectory,
    kinds: Mapping[str, PromptKind | None],
    *,
    count: int | None,
    seed: int,
    after_step: int = 0,
) -> RejudgeSample:
    """Draw scored completions of a run at random, without replacement.

    Args:
        directory: the run directory.
        kinds: the kind of each prompt, by prompt id.
        count: the number of completions; None takes all of them.
        seed: the seed of the random draw.
        after_step: the last step before the current scoring of the run; it and earlier ones are left out.

    Raises:
        UsageError: the stored completions cannot be read.
    """
    scored: list[Completion] = []
    unscored = unknown = 0
    for step, completions in read_completions(directory):
        if step <= after_step:
            continue
        for completion in completions:
            if completion.scored is None or completion.scored.reward is None:
                unscored += 1
            elif completion.finished.prompt_id not in kinds:
                unknown += 1
            else:
                scored.append(completion)
    drawn = scored
    if count is not None and count < len(scored):
        positions = sorted(random.Random(seed).sample(range(len(scored)), count))
        drawn = [scored[position] for position in positions]
    return RejudgeSample(tuple(drawn), len(scored), unscored, unknown)


def build_requests(
    completions: Sequence[Completion],
    kinds: Mapping[str, PromptKind | None],
    checks: Mapping[str, tuple[str, ...]] | None = None,
) -> list[JudgeRequest]:
    """The judge requests for the completions, in the same order.

    Args:
        completions: the completions.
        kinds: the kind of each prompt, by id.
        checks: the additional checks of prompts that have any, by id.
    """
    return [
        JudgeRequest(
            completion.finished.prompt_id,
            completion.finished.prompt,
            kinds[completion.finished.prompt_id],
            completion.finished.text,
            context=completion.finished.context,
            checks=(checks or {}).get(completion.finished.prompt_id, ()),
        )
        for completion in completions
    ]


def estimate_cost(
    judge: JudgeConfig, rubric: RubricConfig, requests: Sequence[JudgeRequest]
) -> float | None:
    """The estimated cost in US dollars without cached verdicts; None if the judge has no price."""
    costs = [_estimate_member_cost(member, rubric, requests) for member in judge.members]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _estimate_member_cost(
    judge: JudgeConfig, rubric: RubricConfig, requests: Sequence[JudgeRequest]
) -> float | None:
    """The estimated cost of one judge."""
    if judge.kind == "offline":
        return 0.0
    if judge.price is None or judge.kind == "plugin":
        return None  # a plugin reports its cost after each call
    system_chars = len(system_message(rubric))
    chars = sum(
        system_chars
        + len(request.prompt)
        + sum(len(content) for _, content in request.context)
        + min(len(request.completion), judge.max_judged_chars)
        for request in requests
    )
    input_tokens = judge.samples * chars / _CHARS_PER_TOKEN
    output_tokens = judge.samples * len(requests) * _REPLY_TOKENS
    return (input_tokens * judge.price.input + output_tokens * judge.price.output) / 1e6


def rejudge(
    service: JudgeService,
    completions: Sequence[Completion],
    requests: Sequence[JudgeRequest],
    *,
    same_formula: bool = True,
    on_progress: OnVerdictProgress = lambda received, total: None,
) -> RejudgeResult:
    """Have completions judged again, and compare the verdicts with those of the run.

    A `KeyboardInterrupt` or a `JudgeUnavailable` cancels the remaining calls; the result then covers the
    verdicts received so far.

    Args:
        service: a running service of the new judge.
        completions: completions with scores.
        requests: one request per completion, in the same order.
        same_formula: whether both judges' rewards come from the same formula; otherwise only the axes are
            compared.
        on_progress: called repeatedly with the number of verdicts received and the total.
    """
    started = time.monotonic()
    futures = [service.submit(request) for request in requests]
    interrupted, unavailable = False, None
    try:
        collect(futures, on_progress=on_progress)
    except KeyboardInterrupt:
        interrupted = True
    except JudgeUnavailable as error:
        unavailable = error
    verdicts = [received_verdict(future) for future in futures]
    received = [verdict for verdict in verdicts if verdict is not None]
    pairs = [
        (completion, verdict)
        for completion, verdict in zip(completions, verdicts, strict=True)
        if verdict is not None and verdict.has_scores
    ]
    return RejudgeResult(
        requested=len(requests),
        received=len(received),
        scored=len(pairs),
        agreements=tuple(_agreements(pairs, service.formula if same_formula else None)),
        stats=BatchStats.from_verdicts(received, time.monotonic() - started, slots=service.slots),
        interrupted=interrupted,
        unavailable=unavailable,
    )


def _agreements(
    pairs: Sequence[tuple[Completion, Verdict]], formula: Formula | None
) -> Iterator[JudgeAgreement]:
    """The agreement on each judged axis and, with a formula, on the reward."""
    for axis in dict.fromkeys(axis for _, verdict in pairs for axis in verdict.scores):
        scores = [
            (old, new)
            for completion, verdict in pairs
            if completion.scored is not None
            and (old := completion.scored.scores.get(axis)) is not None
            and (new := verdict.scores.get(axis)) is not None
        ]
        if scores:
            yield measure_agreement(axis, *zip(*scores, strict=True))
    rewards = [
        (old, new)
        for completion, verdict in pairs
        if formula is not None
        and completion.scored is not None
        and (old := completion.scored.reward) is not None
        and (new := _reward(verdict, completion.scored.scores, formula)) is not None
    ]
    if rewards:
        yield measure_agreement("", *zip(*rewards, strict=True))


def _reward(verdict: Verdict, recorded: Scores, formula: Formula) -> float | None:
    """The reward of a verdict; axes that the judge does not score keep their recorded scores."""
    computed = {axis: score for axis, score in recorded.items() if axis not in verdict.scores}
    return verdict.with_computed(ComputedScores(computed, {}), formula).reward


def measure_agreement(
    name: str, old_scores: Sequence[float], new_scores: Sequence[float]
) -> JudgeAgreement:
    """Compute the agreement of two lists of scores.

    Args:
        name: name of a judged axis; empty for the reward.
        old_scores: the scores of the run's judge; not empty.
        new_scores: the scores of the new judge, in the same order.
    """
    differences = [new - old for old, new in zip(old_scores, new_scores, strict=True)]

    half = HALF_POINT if name else HALF_POINT_OF_REWARD

    def within(limit: float) -> float:
        return fmean(abs(difference) <= limit + ROUNDING_TOLERANCE for difference in differences)

    return JudgeAgreement(
        figure=name,
        pairs=len(differences),
        spearman=spearman(old_scores, new_scores)
        if len(differences) >= MIN_CORRELATED_PAIRS
        else None,
        exact=within(0.0),
        within_half=within(half),
        within_one=within(2 * half),
        difference=fmean(differences),
    )
