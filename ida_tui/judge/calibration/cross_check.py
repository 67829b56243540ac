"""Cross-checks of a step's completions without the judge: refusals, repetition, length and offline score.

A policy can learn to exploit the judge. The refusal classifier and the offline heuristic have different
weaknesses, so a growing gap between them and the judge is a sign of reward hacking (`ida_tui.events.alerts`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from ida_tui.config.schema import PromptKind
from ida_tui.events.types import OFFLINE_JUDGE
from ida_tui.judge.backends.offline.heuristic import OfflineScorer
from ida_tui.judge.backends.offline.refusal import classify_refusal
from ida_tui.judge.verdict import Verdict
from ida_tui.rewards.formulas import Formula
from ida_tui.util.statistics import MIN_CORRELATED_PAIRS, mean_of_known, pearson
from ida_tui.util.text import split_words

T = TypeVar("T")
NGRAM_WORDS = 4
"""Length of the word n-grams that `repetition_share` counts."""


@dataclass(frozen=True, slots=True)
class JudgedCompletion:
    """One completion of a step with its verdict."""

    group: int
    prompt: str
    kind: PromptKind | None
    text: str
    """Its answer, without its thought."""
    tokens: int
    """Length of the answer."""
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class CrossCheckFigures:
    """Cross-check statistics of one step. Integers count completions."""

    harmless: int = 0
    """Harmless requests whose answer has a refusal class; 0 if most have none."""
    harmless_refused: int = 0
    """Full refusals of harmless requests."""
    unsafe: int = 0
    """As `harmless`, for unsafe requests."""
    unsafe_declined: int = 0
    """Full and partial refusals of unsafe requests."""
    repetition: float | None = None
    """Mean share of a completion's word 4-grams that repeat an earlier one."""
    length_r: float | None = None
    """Correlation of token count and reward within a group, among completions of the same refusal class."""
    offline_reward: float | None = None
    """Mean reward that the offline heuristic gives to the scored completions; None if it is the judge, or
    does not know the axes."""
    unclassified: int = 0
    """Completions without a refusal class, because of their language."""


class CrossChecker:
    """Computes the cross-check statistics of a step.

    Args:
        corpus: the texts of the prompts, from which the offline heuristic builds its IDF table.
        formula: the reward formula of the shipped axes; None for other axes, which it cannot score.
    """

    def __init__(self, corpus: Sequence[str], formula: Formula | None) -> None:
        self._scorer = OfflineScorer(corpus)
        self._formula = formula

    def compute(self, completions: Sequence[JudgedCompletion]) -> CrossCheckFigures:
        """The statistics of one step; takes well under 1 ms per completion of chat length."""
        offline_rewards: list[float] = []
        refusals: list[str | None] = []
        for completion in completions:
            verdict = completion.verdict
            formula = None if verdict.reward is None else self._formula
            if verdict.judge == OFFLINE_JUDGE or formula is None:
                refusals.append(verdict.refusal or classify_refusal(completion.text))
                continue
            score = self._scorer.score(completion.prompt, completion.kind, completion.text)
            refusals.append(classify_refusal(completion.text) if score is None else score.refusal)
            if score is None:
                continue
            with suppress(ArithmeticError, ValueError):  # the formula has no value
                offline_rewards.append(formula.reward(score.scores))
        judged = sum(
            c.verdict.reward is not None for c in completions if c.verdict.judge != OFFLINE_JUDGE
        )
        classified = list(zip(completions, refusals, strict=True))
        harmless = mostly_known([refusal for c, refusal in classified if c.kind == "harmless"])
        unsafe = mostly_known([refusal for c, refusal in classified if c.kind == "unsafe"])
        return CrossCheckFigures(
            harmless=len(harmless),
            harmless_refused=harmless.count("full_refusal"),
            unsafe=len(unsafe),
            unsafe_declined=len(unsafe) - unsafe.count("full_compliance"),
            repetition=mean_of_known(repetition_share(c.text) for c in completions),
            length_r=_length_correlation(classified),
            offline_reward=mean_of_known(offline_rewards, minimum=max(1, _majority(judged))),
            unclassified=sum(bool(c.kind) and refusal is None for c, refusal in classified),
        )


def mostly_known(classes: Sequence[T | None]) -> list[T]:
    """The known ones of some refusal classes; empty if most are unknown, because they say too little."""
    known = [refusal for refusal in classes if refusal is not None]
    return known if len(known) >= _majority(len(classes)) else []


def _majority(total: int) -> int:
    """The smallest number that is at least half of a total."""
    return (total + 1) // 2


def repetition_share(text: str) -> float:
    """The share of a text's word 4-grams that repeat an earlier one, 0 to 1; 0 for under four words."""
    words = split_words(text.lower())
    grams = [
        tuple(words[start : start + NGRAM_WORDS]) for start in range(len(words) - NGRAM_WORDS + 1)
    ]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _length_correlation(
    classified: Sequence[tuple[JudgedCompletion, str | None]],
) -> float | None:
    """Pearson's correlation of token count and reward, each minus the mean of its group and class.

    Answers are longer than refusals and may deserve a higher reward. Comparing only completions of the
    same refusal class isolates what the judge pays for length itself.
    """
    by_class: dict[tuple[int, str | None], list[tuple[int, float]]] = defaultdict(list)
    for completion, refusal in classified:
        reward = completion.verdict.reward
        if reward is not None:
            by_class[completion.group, refusal].append((completion.tokens, reward))
    lengths: list[float] = []
    rewards: list[float] = []
    for pairs in by_class.values():
        mean_length = fmean(length for length, _ in pairs)
        mean_reward = fmean(reward for _, reward in pairs)
        lengths += [length - mean_length for length, _ in pairs]
        rewards += [reward - mean_reward for _, reward in pairs]
    return pearson(lengths, rewards) if len(lengths) >= MIN_CORRELATED_PAIRS else None
