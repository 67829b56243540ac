"""Report of a judge's accuracy on gold answers: figures per axis, findings and the worst disagreements."""

from __future__ import annotations

from dataclasses import dataclass

from ida_tui.events.judge_quality import percent_interval
from ida_tui.util.finding import Finding
from ida_tui.util.format import format_count, format_percent
from ida_tui.util.intervals import Interval

GOOD_ACCURACY = 0.75
"""Share of pairs in the right order, or of labels, from which a judge agrees with a person."""
CHANCE = 0.5
"""The same share of a judge that guesses."""


@dataclass(frozen=True, slots=True)
class LabelFigure:
    """The answers with one label on an axis."""

    label: str
    answers: int
    right: int | None
    """Answers whose score is on the label's side of the middle of the scale; None for the reward, whose scale
    is unknown."""
    mean: float
    """Mean score."""


@dataclass(frozen=True, slots=True)
class GoldAxis:
    """How a judge agrees with a person on one axis; None where there is nothing to compare."""

    axis: str
    """Its name; the name of the reward for marks of the whole answer."""
    order: Interval | None = None
    """Share of pairs in the same order; a pair to which the judge gives equal scores counts half."""
    pairs: int = 0
    prompts: int = 0
    """Prompts with such pairs; 0 if the pairs are of answers to different prompts."""
    close: Interval | None = None
    """Share of scores within a point of the person's."""
    scores: int = 0
    bias: float | None = None
    """Mean of the judge's minus the person's score, in points."""
    accuracy: Interval | None = None
    """Share of labels on whose side of the middle of the scale the judge's score is."""
    labels: tuple[LabelFigure, ...] = ()


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One answer or pair about which the judge and the person differ."""

    size: float
    """In points of the axis; of the reward, in tenths of the range of the rewards seen."""
    where: str
    """The row, as `file:line`."""
    axis: str
    gold: str
    """The person's score, label or preference, in words."""
    judged: str
    """The judge's score or scores."""
    prompt: str
    completion: str
    reason: str
    """The judge's reason."""


@dataclass(frozen=True, slots=True)
class GoldReport:
    """The judge's verdicts on the gold answers of a person."""

    name: str
    """The file, as printed."""
    answers: int
    prompts: int
    failed: int
    """Answers whose verdict failed."""
    failure: str
    """The most common reason of the failures; empty without any."""
    calls: int
    cost: float | None
    """US dollars; None if unknown."""
    axes: tuple[GoldAxis, ...]
    disagreements: tuple[Disagreement, ...]
    """The worst ones, the largest first."""
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings())

    def findings(self) -> list[Finding]:
        """Whether the judge agrees with the person."""
        failure = f" ({self.failure})" if self.failure else ""
        findings = [
            Finding(
                "error" if self.failed else "good",
                "gold",
                f"{self.answers - self.failed} of {self.answers} gold answers have scores{failure}",
            )
        ]
        for axis in self.axes:
            if axis.order is not None:
                what = f"orders {format_count(axis.pairs, 'pair')} as you do"
                findings.append(_finding(axis.axis, what, axis.order))
            if axis.accuracy is not None:
                findings.append(_finding(axis.axis, "is on the side of your labels", axis.accuracy))
        return findings

    def as_json(self) -> dict[str, object]:
        """The report as JSON-serializable values."""
        return {
            "file": self.name,
            "answers": self.answers,
            "prompts": self.prompts,
            "failed": self.failed,
            "calls": self.calls,
            "cost": self.cost,
            "passed": self.passed,
            "axes": {
                axis.axis: {
                    "order": _interval_json(axis.order),
                    "pairs": axis.pairs,
                    "within_a_point": _interval_json(axis.close),
                    "scores": axis.scores,
                    "bias": axis.bias,
                    "label_accuracy": _interval_json(axis.accuracy),
                    "labels": {
                        f.label: {"answers": f.answers, "right": f.right, "mean": f.mean}
                        for f in axis.labels
                    },
                }
                for axis in self.axes
            },
            "disagreements": [
                {
                    "row": each.where,
                    "axis": each.axis,
                    "gold": each.gold,
                    "judge": each.judged,
                    "reason": each.reason,
                }
                for each in self.disagreements
            ],
        }


def _finding(axis: str, what: str, interval: Interval) -> Finding:
    text = f"{axis}: {what} in {format_percent(interval.value)} ({percent_interval(interval)})"
    if interval.value < GOOD_ACCURACY:
        return Finding("error", "gold", text)
    if interval.low <= CHANCE:
        return Finding("note", "gold", f"{text}: too few to tell it from guessing")
    return Finding("good", "gold", text)


def _interval_json(interval: Interval | None) -> dict[str, float] | None:
    if interval is None:
        return None
    return {"value": interval.value, "low": interval.low, "high": interval.high}
