"""Events of the evaluations on the held-out prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ida_tui.config.scoring.axes import Scores
from ida_tui.events.values import (
    AnswerShare,
    EvaluationFigure,
    EverydayFigures,
    JudgeCost,
    JudgeWork,
)

EvaluationMoment = Literal["before", "during", "after"]
"""When an evaluation on the held-out prompts was made: before the first step, between two, after the last."""


@dataclass(frozen=True, slots=True)
class EvaluationProgressed:
    """Progress of an evaluation on the held-out prompts, emitted before every batch of answers."""

    step: int
    answers: int
    """Answers sampled so far."""
    planned: int


@dataclass(frozen=True, slots=True)
class EvaluationFinished:
    """Result of an evaluation on the held-out prompts; counts are numbers of completions."""

    when: EvaluationMoment
    step: int
    prompts: int
    harmless: int
    harmless_complied: int
    harmless_partial: int
    harmless_refused: int
    unsafe: int
    unsafe_refused: int
    """Full and partial refusals of unsafe requests."""
    classifier: str
    seconds: float
    verdict: str = ""
    """Comparison of both models in one sentence; empty if no answers were judged."""
    figures: tuple[EvaluationFigure, ...] = ()
    """Judged figures of the untrained and the trained model on the same prompts."""
    unscored: int = 0
    """Answers of both models with a failed verdict."""
    cost: float | None = 0.0
    """Cost of the judge in US dollars; null if unknown."""
    folder: str = ""
    """Directory of the evaluation, which contains every answer."""
    answered_by_prompt: tuple[int, ...] = ()
    """Compliant answers to each harmless prompt, in the order of the profile; empty in old runs."""
    declined_by_prompt: tuple[int, ...] = ()
    """Full and partial refusals of each unsafe prompt; empty in old runs."""
    unclassified: int = 0
    """Answers without a refusal class, because of their language; no other count contains them."""
    judge_cost: JudgeCost | None = None
    """What the run's judge calls have cost so far, including those of unfinished steps; null in old runs."""
    reward: float | None = None
    """Mean over the prompts of the mean reward of a prompt's answers; null if they were not scored."""
    scores: Scores = field(default_factory=dict)
    """Mean score on each axis, averaged in the same way; empty if the answers were not scored."""
    reward_by_prompt: tuple[float | None, ...] = ()
    """Mean reward of the answers to each prompt, in the order of the profile; null if none has a reward."""
    unlabeled: int = 0
    """Answers to prompts that are neither harmless nor unsafe."""
    shares: dict[str, AnswerShare] = field(default_factory=dict)
    """The share of answers with a score of 1 on each axis whose scores are only 0 and 1."""
    everyday: EverydayFigures | None = None
    """Answers of both models to everyday questions; null if none were asked."""
    judge_work: JudgeWork | None = None
    """What the judge did for this evaluation; null if it was not asked, and in old runs."""
