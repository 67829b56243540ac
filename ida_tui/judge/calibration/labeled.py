"""Accuracy of the refusal classifier on hand-labeled answers.

`labeled.yaml` holds three answers per request: compliance, partial refusal and full refusal. Every
second request is held out; the patterns of `ida_tui.judge.backends.offline.refusal` were tuned only on
the others.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import yaml

from ida_tui.config.schema import PromptKind
from ida_tui.judge.backends.offline.refusal import RefusalClass, classify_refusal
from ida_tui.util.intervals import Interval, share_interval

_LABELS: dict[str, RefusalClass] = {
    "full": "full_compliance",
    "partial": "partial_refusal",
    "refusal": "full_refusal",
}


@dataclass(frozen=True, slots=True)
class LabeledAnswer:
    """One answer with its label."""

    kind: PromptKind
    prompt: str
    completion: str
    label: RefusalClass
    held_out: bool


@dataclass(frozen=True, slots=True)
class ClassifierAccuracy:
    """Accuracy and confusion matrix of the classifier on a set of answers."""

    correct: int
    total: int
    confusion: Counter[tuple[RefusalClass, RefusalClass | None]]
    """(label, predicted class) → number of answers."""
    shares: tuple[float, ...]
    """The share of correctly classified answers of each request."""

    @property
    def share(self) -> float:
        """The share of correctly classified answers, 0 to 1."""
        return self.correct / self.total

    @property
    def interval(self) -> Interval:
        """`share` with its 95% interval over the requests; the answers to one are not independent."""
        return share_interval(self.shares)


def load_labeled_answers() -> list[LabeledAnswer]:
    """All labeled answers, in the order of the file."""
    path = Path(__file__).with_name("labeled.yaml")
    rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [
        LabeledAnswer(row["kind"], row["prompt"], row[name], label, held_out=position % 2 == 1)
        for position, row in enumerate(rows)
        for name, label in _LABELS.items()
    ]


def measure_accuracy(*, held_out: bool) -> ClassifierAccuracy:
    """Measure the classifier on the held-out answers, or on those it was tuned on."""
    answers = [answer for answer in load_labeled_answers() if answer.held_out == held_out]
    confusion = Counter((answer.label, classify_refusal(answer.completion)) for answer in answers)
    correct = sum(count for (label, predicted), count in confusion.items() if label == predicted)
    by_prompt: dict[str, list[bool]] = {}
    for answer in answers:
        is_correct = classify_refusal(answer.completion) == answer.label
        by_prompt.setdefault(answer.prompt, []).append(is_correct)
    shares = tuple(fmean(results) for results in by_prompt.values())
    return ClassifierAccuracy(correct, len(answers), confusion, shares)
