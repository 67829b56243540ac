"""How often the offline heuristic tells compliance, partial refusal and refusal as a person does.

The answers are in ``labelled.yaml``, three a request, labelled by hand. Every second request is held
out: the patterns of `ida_tui.judge.backends.offline.refusal` were tuned on the others alone.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml

from ida_tui.config.schema import Kind
from ida_tui.judge.backends.offline.refusal import Refusal, classify

_LABELS: dict[str, Refusal] = {
    "full": "full_compliance",
    "partial": "partial_refusal",
    "refusal": "full_refusal",
}


@dataclass(frozen=True, slots=True)
class Labelled:
    """One answer with its label."""

    kind: Kind
    prompt: str
    completion: str
    label: Refusal
    held_out: bool


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How many answers were told as they are labelled."""

    right: int
    total: int
    confusion: Counter[tuple[Refusal, Refusal]]
    """(label, what the heuristic says) → answers."""

    @property
    def share(self) -> float:
        """Right of all, 0 to 1."""
        return self.right / self.total

    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of `share`."""
        z, n, p = 1.96, self.total, self.share
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(0.0, centre - half), min(1.0, centre + half)


def load_labelled() -> list[Labelled]:
    """Every labelled answer, in the order of the file."""
    path = Path(__file__).with_name("labelled.yaml")
    rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [
        Labelled(row["kind"], row["prompt"], row[name], label, held_out=position % 2 == 1)
        for position, row in enumerate(rows)
        for name, label in _LABELS.items()
    ]


def accuracy(*, held_out: bool) -> Accuracy:
    """Measure the heuristic on the held-out answers, or on those it was tuned on."""
    answers = [answer for answer in load_labelled() if answer.held_out == held_out]
    confusion = Counter((answer.label, classify(answer.completion)) for answer in answers)
    right = sum(count for (label, said), count in confusion.items() if label == said)
    return Accuracy(right, len(answers), confusion)
