"""Accuracy of the refusal classifier on hand-labeled answers, by language and by model family.

`labeled.yaml` holds three English answers per request: compliance, partial refusal and full refusal. Every
second request is held out. `labeled_languages.yaml` holds answers in other languages, most of them held
out. `scripts/train_refusal_classifier.py` trains the classifier without the held-out answers.
`measured_families.yaml` holds the results on answers of chat models, which are not part of the package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from ida_tui.config.schema import PromptKind
from ida_tui.judge.backends.offline.refusal import RefusalClass, classify_refusal
from ida_tui.util.intervals import Interval, share_interval

_LABELS: dict[str, RefusalClass] = {
    "full": "full_compliance",
    "partial": "partial_refusal",
    "refusal": "full_refusal",
}
LANGUAGE_NAMES = {
    "en": "English", "de": "German", "fr": "French", "es": "Spanish", "pt": "Portuguese", "it": "Italian",
    "ru": "Russian", "zh": "Chinese", "ja": "Japanese", "ko": "Korean", "ar": "Arabic", "hi": "Hindi",
    "tr": "Turkish",
}  # fmt: skip
"""The languages with labeled answers, by ISO 639-1 code."""


@dataclass(frozen=True, slots=True)
class LabeledAnswer:
    """One English answer with its request and its label."""

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


@dataclass(frozen=True, slots=True)
class GroupAccuracy:
    """How often the classifier tells compliance from refusal, in one language or for one model family."""

    name: str
    answers: int
    interval: Interval
    """The share of right decisions with its 95% interval over the requests; 0 to 1."""
    exact: float
    """The share of answers with the right one of the three classes."""


def load_labeled_answers() -> list[LabeledAnswer]:
    """All English labeled answers, in the order of the file."""
    return [
        LabeledAnswer(row["kind"], row["prompt"], row[name], label, held_out=position % 2 == 1)
        for position, row in enumerate(_read("labeled.yaml"))
        for name, label in _LABELS.items()
    ]


def load_answers_by_language(*, held_out: bool) -> dict[str, list[tuple[str, RefusalClass]]]:
    """The answers in other languages than English with their labels, by ISO 639-1 code."""
    half = "held_out" if held_out else "tuning"
    return {
        language: [(answer, label) for label in _LABELS.values() for answer in halves[half][label]]
        for language, halves in _read("labeled_languages.yaml").items()
    }


def measure_accuracy(*, held_out: bool) -> ClassifierAccuracy:
    """Measure the three classes on the held-out English answers, or on those it was tuned on."""
    answers = [answer for answer in load_labeled_answers() if answer.held_out == held_out]
    confusion = Counter((answer.label, classify_refusal(answer.completion)) for answer in answers)
    correct = sum(count for (label, predicted), count in confusion.items() if label == predicted)
    by_prompt: dict[str, list[bool]] = {}
    for answer in answers:
        is_correct = classify_refusal(answer.completion) == answer.label
        by_prompt.setdefault(answer.prompt, []).append(is_correct)
    shares = tuple(fmean(results) for results in by_prompt.values())
    return ClassifierAccuracy(correct, len(answers), confusion, shares)


def measure_by_language() -> list[GroupAccuracy]:
    """Measure the classifier on the held-out answers of each language, English first."""
    english: dict[str, list[tuple[str, RefusalClass]]] = {}
    for answer in load_labeled_answers():
        if answer.held_out:
            english.setdefault(answer.prompt, []).append((answer.completion, answer.label))
    groups = [measure_group(LANGUAGE_NAMES["en"], list(english.values()))]
    for language, answers in load_answers_by_language(held_out=True).items():
        groups.append(measure_group(LANGUAGE_NAMES[language], [[answer] for answer in answers]))
    return groups


def measure_group(
    name: str, requests: Sequence[Sequence[tuple[str, RefusalClass]]]
) -> GroupAccuracy:
    """Measure the classifier on answers with their labels, one sequence per request."""
    shares: list[float] = []
    exact: list[bool] = []
    for answers in requests:
        predicted = [(classify_refusal(text), label) for text, label in answers]
        exact += [found == label for found, label in predicted]
        shares.append(
            fmean(
                found is not None and (found == "full_compliance") == (label == "full_compliance")
                for found, label in predicted
            )
        )
    return GroupAccuracy(name, len(exact), share_interval(shares), fmean(exact))


def load_measured_families() -> tuple[str, list[GroupAccuracy]]:
    """The source of the recorded answers of chat models, and the results by family."""
    measured = _read("measured_families.yaml")
    return measured["source"], [
        GroupAccuracy(
            row["family"],
            row["answers"],
            Interval(row["right"], row["low"], row["high"]),
            row["exact"],
        )
        for row in measured["families"]
    ]


def _read(name: str) -> Any:
    return yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8"))
