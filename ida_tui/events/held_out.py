"""Figures of the answers to held-out prompts over a run, their change by training, and its wording."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from ida_tui.config.scoring.axes import IDA_REWARD
from ida_tui.events.evaluation import EvaluationFinished
from ida_tui.events.everyday import everyday_sentence
from ida_tui.events.values import AnswerShare
from ida_tui.util.format import (
    format_count,
    format_count_share,
    format_number,
    format_percent,
    format_signed,
)
from ida_tui.util.intervals import (
    MATTERS,
    Interval,
    Outcome,
    binomial_interval,
    change_interval,
    outcome_of_change,
    share_interval,
)

Subject = Literal["answered", "declined"]
"""Harmless requests answered, or unsafe requests declined."""
CurveName = Literal["reward", "answered", "declined"]
CURVE_NAMES: tuple[CurveName, ...] = ("reward", "answered", "declined")


# -- the evaluations of a run ------------------------------------------------------------------


def in_order(
    before: EvaluationFinished | None,
    during: Sequence[EvaluationFinished],
    after: EvaluationFinished | None,
) -> tuple[EvaluationFinished, ...]:
    """The evaluations of a run in the order of the steps.

    The last one is left out if the run was continued and has one of a later step.
    """
    last = during[-1].step if during else 0
    return (
        *((before,) if before is not None else ()),
        *during,
        *((after,) if after is not None and after.step > last else ()),
    )


def evaluations_until(
    evaluations: Iterable[EvaluationFinished], last: int
) -> tuple[EvaluationFinished, ...]:
    """The evaluations that were made at a step up to `last`."""
    return tuple(evaluation for evaluation in evaluations if evaluation.step <= last)


def without_prompts(evaluation: EvaluationFinished) -> EvaluationFinished:
    """The evaluation without its figures of each prompt, of which a long run would hold many."""
    return replace(evaluation, answered_by_prompt=(), declined_by_prompt=(), reward_by_prompt=())


def curve(
    evaluations: Iterable[EvaluationFinished], name: CurveName, *, after_step: int = -1
) -> dict[int, float]:
    """Step → mean reward of the held-out answers, or share of them that answer or decline (0 to 1).

    Args:
        evaluations: the evaluations of a run.
        name: what is drawn.
        after_step: evaluations at steps up to this one are left out.
    """
    points = {}
    for evaluation in evaluations:
        value = curve_value(evaluation, name)
        if value is not None and evaluation.step > after_step:
            points[evaluation.step] = value
    return points


def curve_value(evaluation: EvaluationFinished, name: CurveName) -> float | None:
    """The value of an evaluation on a curve; None if it has none."""
    if name == "reward":
        return evaluation.reward
    answered = name == "answered"
    hits = evaluation.harmless_complied if answered else evaluation.unsafe_refused
    total = evaluation.harmless if answered else evaluation.unsafe
    return hits / total if total else None


# -- the reward --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RewardChange:
    """The mean reward before and after training, with the 95% interval of its change."""

    before: float
    after: float
    low: float
    high: float
    prompts: int
    """Number of prompts with a reward before and after."""
    outcome: Outcome
    """What the interval allows to say."""


def reward_change(
    before: EvaluationFinished, after: EvaluationFinished, reward: str
) -> RewardChange | None:
    """The change of the reward between two evaluations on the same prompts; None if it is unknown.

    Args:
        before: the evaluation of the untrained model.
        after: the evaluation of the trained model.
        reward: name of the reward; R_IDA is known to range from 0 to 1.
    """
    # A reward of unknown range is never "as before".
    most_known = 1.0 if reward == IDA_REWARD else 0.0
    if judged := next((figure for figure in after.figures if figure.name == reward), None):
        outcome = outcome_of_change(judged.low, judged.high, count=after.prompts, most=most_known)
        return RewardChange(
            judged.before, judged.after, judged.low, judged.high, after.prompts, outcome
        )
    if len(before.reward_by_prompt) != len(after.reward_by_prompt):
        return None
    both = [
        (old, new)
        for old, new in zip(before.reward_by_prompt, after.reward_by_prompt, strict=True)
        if old is not None and new is not None
    ]
    if not both:
        return None
    values = [value for pair in both for value in pair]
    most = 1.0 if reward == IDA_REWARD else max(1.0, max(*values, 0.0) - min(*values, 0.0))
    interval = change_interval([new - old for old, new in both], most=most)
    return RewardChange(
        fmean(old for old, _ in both),
        fmean(new for _, new in both),
        interval.low,
        interval.high,
        len(both),
        outcome_of_change(interval.low, interval.high, count=len(both), most=most_known),
    )


def reward_sentence(change: RewardChange, reward: str) -> str:
    """One sentence on the change of the reward with this name."""
    values = f"{format_number(change.before)} → {format_number(change.after)}"
    interval = f"95% interval of the change {format_signed(change.low, 3)} to {format_signed(change.high, 3)}"
    figures = f"({values}, {interval}, {_on_prompts(change.prompts)})"
    if change.outcome == "unclear":
        return f"It is not clear whether {reward} changed on held-out prompts {figures}."
    what = {"higher": "rose", "lower": "fell", "same": "is as before"}[change.outcome]
    return f"On held-out prompts, {reward} {what} {figures}."


# -- axes of 0 and 1 ----------------------------------------------------------------------------


def answer_share(scores: Iterable[tuple[str, float | None]]) -> AnswerShare | None:
    """The share of answers with a score of 1; None if a score is neither 0 nor 1, or if there is none.

    Args:
        scores: prompt id and score of each answer; a score of None is left out.
    """
    by_prompt: dict[str, list[float]] = {}
    for prompt, score in scores:
        if score is not None:
            by_prompt.setdefault(prompt, []).append(score)
    values = [value for known in by_prompt.values() for value in known]
    if not values or not {0.0, 1.0}.issuperset(values):
        return None
    interval = share_interval([fmean(known) for known in by_prompt.values()])
    return AnswerShare(round(sum(values)), len(values), interval.low, interval.high)


def changed_shares(
    before: EvaluationFinished, after: EvaluationFinished
) -> dict[str, tuple[AnswerShare, AnswerShare]]:
    """The shares of the axes of 0 and 1 that both evaluations have."""
    return {
        axis: (share, after.shares[axis])
        for axis, share in before.shares.items()
        if axis in after.shares
    }


def shares_sentence(shares: Mapping[str, tuple[AnswerShare, AnswerShare]]) -> str:
    """One sentence on the axes of 0 and 1, with the interval of each share; empty without any.

    Args:
        shares: the share of each axis before and after training.
    """
    texts = [
        f"{axis} {format_count_share(old.hits, old.answers)} → {format_count_share(new.hits, new.answers)},"
        f" 95% intervals {format_percent(old.low)} to {format_percent(old.high)} and"
        f" {format_percent(new.low)} to {format_percent(new.high)}"
        for axis, (old, new) in shares.items()
    ]
    return f"Held-out answers with a score of 1: {'; '.join(texts)}." if texts else ""


# -- answers and refusals ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShareChange:
    """A share before and after training, with the 95% interval of its change. Fractions are from 0 to 1."""

    before: float
    after: float
    low: float
    high: float
    prompts: int
    changed: int | None
    """Number of prompts whose share changed; None if unknown."""

    @property
    def outcome(self) -> Outcome:
        """What the interval allows to say."""
        return outcome_of_change(self.low, self.high, count=self.prompts)


def counted_change(
    before: EvaluationFinished, after: EvaluationFinished, subject: Subject
) -> ShareChange | None:
    """The change of a share as counted during a run; None if the counts of each prompt are unknown."""
    shares = [shares_by_prompt(evaluation, subject) for evaluation in (before, after)]
    if not shares[0] or len(shares[0]) != len(shares[1]):
        return None
    changes = [new - old for old, new in zip(*shares, strict=True)]
    interval = change_interval(changes)
    return ShareChange(
        fmean(shares[0]),
        fmean(shares[1]),
        interval.low,
        interval.high,
        len(changes),
        sum(change != 0 for change in changes),
    )


def counted_share(evaluation: EvaluationFinished, subject: Subject) -> Interval:
    """A share as counted during a run, with its interval over the prompts.

    In old runs, where the counts of each prompt are unknown, a prompt counts as one answer.

    Raises:
        ValueError: there are no such prompts.
    """
    if shares := shares_by_prompt(evaluation, subject):
        return share_interval(shares)
    answered = subject == "answered"
    hits = evaluation.harmless_complied if answered else evaluation.unsafe_refused
    total = evaluation.harmless if answered else evaluation.unsafe
    if not total:
        raise ValueError("there are no such prompts")
    answers = evaluation.harmless + evaluation.unsafe
    prompts = max(1, round(total * evaluation.prompts / answers))
    return binomial_interval(hits * prompts / total, prompts)


def shares_by_prompt(evaluation: EvaluationFinished, subject: Subject) -> list[float]:
    """The share of each prompt's answers; empty if the counts of each prompt are unknown."""
    answered = subject == "answered"
    counts = evaluation.answered_by_prompt if answered else evaluation.declined_by_prompt
    total = evaluation.harmless if answered else evaluation.unsafe
    return [count * len(counts) / total for count in counts] if total else []


def counted_conclusion(
    before: EvaluationFinished, after: EvaluationFinished, reward: str = IDA_REWARD
) -> str:
    """Sentences on the shares and the reward as measured during a run; empty if nothing is known by prompt.

    Args:
        before: the evaluation of the untrained model.
        after: the evaluation of the trained model.
        reward: name of the reward.
    """
    text = conclusion(
        counted_change(before, after, "answered"), counted_change(before, after, "declined")
    )
    sentences = [text, shares_sentence(changed_shares(before, after))]
    if (change := reward_change(before, after, reward)) is not None:
        sentences.append(reward_sentence(change, reward))
    if after.everyday is not None:
        sentences.append(everyday_sentence(after.everyday))
    return " ".join(filter(None, sentences))


def conclusion(answered: ShareChange | None, declined: ShareChange | None) -> str:
    """Sentences on both shares; empty if neither is known."""
    sentences = []
    if answered is not None:
        sentences.append(_sentence(answered, "answers", "harmless requests"))
    if declined is not None:
        sentences.append(_sentence(declined, "declines", "unsafe requests"))
    if declined is not None and declined.outcome == "lower":
        sentences.append("It is less safe than before.")
    if answered is not None and answered.outcome == "lower":
        sentences.append("It over-refuses more than before.")
    return " ".join(sentences)


def _sentence(change: ShareChange, verb: str, requests: str) -> str:
    shares = f"{format_percent(change.before)} → {format_percent(change.after)}"
    points = format_signed(100 * (change.after - change.before))
    interval = f"95% interval {_points(change.low)} to {_points(change.high)}"
    on_prompts = _on_prompts(change.prompts)
    match change.outcome:
        case "higher" | "lower":
            more = "more" if change.outcome == "higher" else "fewer"
            return f"The trained model {verb} {more} {requests} ({shares}, {points} points, {interval})."
        case "same":
            return (
                f"The trained model {verb} {requests} as before ({shares} {on_prompts}; {interval}, which"
                f" excludes a change of {100 * MATTERS:g} points)."
            )
    if change.changed == 0:
        could = _at_most(max(-change.low, change.high))
        return (
            f"No change was seen in how often it {verb} {requests} ({shares} {on_prompts};"
            f" as many as {could} could have changed)."
        )
    return (
        f"It is not clear whether it {verb} more or fewer {requests} ({shares}, {points} points,"
        f" {interval}, {on_prompts})."
    )


def _on_prompts(count: int) -> str:
    return f"on {format_count(count, 'prompt')}"


def _points(fraction: float) -> str:
    return format_signed(100 * fraction)


def _at_most(share: float) -> str:
    """A share rounded up: `3 in 10`, or `1 in 21` for a small one."""
    if share > 0.1:
        return f"{math.ceil(10 * share)} in 10"
    return f"1 in {math.floor(1 / max(share, 1e-6))}"
