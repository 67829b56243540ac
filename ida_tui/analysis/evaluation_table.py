"""Text table of an evaluation: its figures, its verdict, and how it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ida_tui.analysis.before_after import KINDS, signed
from ida_tui.runs.store.evaluations import Evaluation, Figure, Unit

DIGITS: Mapping[Unit, int] = {"share": 0, "points": 1, "reward": 3, "tokens": 0}


def lines(evaluation: Evaluation) -> list[str]:
    """The table, at most 80 columns wide, followed by the verdict and notes."""
    out = [
        f"{'':<20}{'before':>8}{'after':>9}{'change':>10}   95% interval",
    ]
    for kind in KINDS:
        figures = [figure for figure in evaluation.figures if figure.name.startswith(f"{kind} ")]
        if not figures:
            continue
        count = evaluation.harmless if kind == "harmless" else evaluation.unsafe
        out.append(f"{kind}, {count} prompt{'s' * (count != 1)}")
        out += [_row(figure, count) for figure in figures]
    out += ["", evaluation.verdict, *about(evaluation)]
    return out


class Cells(NamedTuple):
    """Text of one table row; cells without content are empty."""

    name: str
    before: str
    after: str
    change: str
    interval: str
    word: str
    """better, worse or changed; empty if the change may be chance."""
    note: str


def cells(one: Figure, count: int) -> Cells:
    """The table cells of one figure.

    Args:
        one: the figure; its name starts with the kind of its prompts.
        count: number of prompts of that kind.
    """
    scale = 100 if one.unit == "share" else 1
    digits = DIGITS[one.unit]
    unit = "%" if one.unit == "share" else ""
    name = one.name.partition(" ")[2] + (" (tokens)" if one.unit == "tokens" else "")
    before, after = (f"{scale * value:.{digits}f}{unit}" for value in (one.base, one.tuned))
    low, high = (signed(scale * value, digits) for value in (one.low, one.high))
    note = f"({one.prompts} prompts have verdicts)" if one.prompts < count else ""
    change = signed(scale * one.difference, digits)
    return Cells(name, before, after, change, f"{low} to {high}", _word(one), note)


def _row(one: Figure, count: int) -> str:
    row = cells(one, count)
    return (
        f"  {row.name:<18}{row.before:>8}{row.after:>9}{row.change:>10}"
        f"   {row.interval:<18}{row.word} {row.note}"
    ).rstrip()


def _word(one: Figure) -> str:
    if not one.differs:
        return ""
    if one.better == "neither":
        return "changed"
    return "better" if (one.difference > 0) == (one.better == "higher") else "worse"


def about(evaluation: Evaluation) -> Iterator[str]:
    """How the evaluation was made, with warnings and cost."""
    total = 2 * (evaluation.harmless + evaluation.unsafe) * evaluation.samples
    yield (
        f"{evaluation.samples} answers per model and prompt ({evaluation.prompts}), seed"
        f" {evaluation.seed};"
    )
    yield f"scored by {evaluation.judge}, refusals classified by {evaluation.classifier}."
    if evaluation.unscored:
        yield f"! {evaluation.unscored} of {total} verdicts failed; the scores exclude these answers."
    if evaluation.cost:
        yield f"The judge cost ${evaluation.cost:.4f}."
    elif evaluation.cost is None:
        yield "The cost of the judge is unknown."
    yield from (f"! {note}" for note in evaluation.notes)
