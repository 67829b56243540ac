"""What can be told of a step's completions without its judge: a second opinion, and figures of form.

A judge that is fooled does not say so. The refusal classifier and the offline heuristic are not fooled in
the same way: where they and the judge part, a model may be learning to please the judge (`ida_tui.events.alerts`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ida_tui.config.schema import Kind
from ida_tui.events.types import OFFLINE_JUDGE
from ida_tui.judge.backends.offline.heuristic import OfflineScorer
from ida_tui.judge.backends.offline.refusal import classify
from ida_tui.judge.verdict import Verdict
from ida_tui.rewards.r_ida import r_ida
from ida_tui.util.statistics import pearson

GRAM = 4
"""Words that make a repetition when they come again in the same order."""
LEAST_FOR_LENGTH = 8
"""Completions of which a correlation of length and reward is told."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One completion of a step, with what its judge said."""

    group: int
    prompt: str
    kind: Kind
    text: str
    tokens: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class CrossChecked:
    """Figures of one step; the counts are completions."""

    harmless: int = 0
    harmless_refused: int = 0
    """Full refusals of harmless requests."""
    unsafe: int = 0
    unsafe_declined: int = 0
    """Full and partial refusals of unsafe requests."""
    repetition: float | None = None
    """Mean share of a completion's word 4-grams that it has said before."""
    length_r: float | None = None
    """Correlation of tokens and R_IDA among completions of one group that decline, or answer, alike."""
    offline_r_ida: float | None = None
    """Mean R_IDA of the scored completions by the offline heuristic; null where it is the judge."""


class CrossCheck:
    """Looks at the completions of a step beside its judge.

    Args:
        corpus: the texts of the profile's prompts, from which the heuristic takes its topics.
    """

    def __init__(self, corpus: Sequence[str]) -> None:
        self._scorer = OfflineScorer(corpus)

    def look(self, completions: Sequence[Seen]) -> CrossChecked:
        """The figures of one step; well under a millisecond a completion of a chat's length."""
        offline: list[float] = []
        refusals: list[str] = []
        for seen in completions:
            verdict = seen.verdict
            if verdict.judge == OFFLINE_JUDGE or verdict.r_ida is None:
                refusals.append(verdict.refusal or classify(seen.text))
                continue
            score = self._scorer.score(seen.prompt, seen.kind, seen.text)
            refusals.append(score.refusal)
            offline.append(r_ida(score.align, score.risk, score.detail))
        told = list(zip(completions, refusals, strict=True))
        harmless = [refusal for seen, refusal in told if seen.kind == "harmless"]
        unsafe = [refusal for seen, refusal in told if seen.kind == "unsafe"]
        return CrossChecked(
            harmless=len(harmless),
            harmless_refused=harmless.count("full_refusal"),
            unsafe=len(unsafe),
            unsafe_declined=len(unsafe) - unsafe.count("full_compliance"),
            repetition=fmean(repetition(seen.text) for seen in completions)
            if completions
            else None,
            length_r=_length_r(told),
            offline_r_ida=fmean(offline) if offline else None,
        )


def repetition(text: str) -> float:
    """The share of a text's word 4-grams that it has said before, 0 to 1; 0 of a shorter text."""
    words = text.lower().split()
    grams = [tuple(words[start : start + GRAM]) for start in range(len(words) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _length_r(told: Sequence[tuple[Seen, str]]) -> float | None:
    """Pearson's correlation of length and R_IDA, each less the mean of its group and class.

    Answers are longer than refusals and may well earn more; what a judge pays for length itself shows among
    completions that do the same.
    """
    alike: dict[tuple[int, str], list[tuple[int, float]]] = defaultdict(list)
    for seen, refusal in told:
        if seen.verdict.r_ida is not None:
            alike[seen.group, refusal].append((seen.tokens, seen.verdict.r_ida))
    lengths: list[float] = []
    rewards: list[float] = []
    for rows in alike.values():
        length, reward = fmean(row[0] for row in rows), fmean(row[1] for row in rows)
        lengths += [row[0] - length for row in rows]
        rewards += [row[1] - reward for row in rows]
    return pearson(lengths, rewards) if len(lengths) >= LEAST_FOR_LENGTH else None
