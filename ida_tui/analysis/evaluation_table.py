"""An evaluation as lines: a table of its figures, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ida_tui.analysis.before_after import KINDS, signed
from ida_tui.runs.store.evaluations import Evaluation, Figure, Unit

DIGITS: Mapping[Unit, int] = {"share": 0, "points": 1, "reward": 3, "tokens": 0}


def lines(evaluation: Evaluation) -> list[str]:
    """The table, at most 80 columns wide, and the verdict below it."""
    out = [
        f"{'':<20}{'before':>8}{'after':>9}{'change':>10}   95 % interval",
    ]
    for kind in KINDS:
        own = [one for one in evaluation.figures if one.name.startswith(f"{kind} ")]
        if not own:
            continue
        count = evaluation.harmless if kind == "harmless" else evaluation.unsafe
        out.append(f"{kind}, {count} prompt{'s' * (count != 1)}")
        out += [_row(one, count) for one in own]
    out += ["", evaluation.verdict, *about(evaluation)]
    return out


class Cells(NamedTuple):
    """A figure in words; what is empty goes without saying."""

    name: str
    before: str
    after: str
    change: str
    interval: str
    word: str
    """What the change is worth: better, worse, changed; empty where it may be chance."""
    note: str


def cells(one: Figure, count: int) -> Cells:
    """One figure.

    Args:
        one: the figure; its name begins with the kind of its prompts.
        count: prompts of that kind.
    """
    scale = 100 if one.unit == "share" else 1
    digits = DIGITS[one.unit]
    unit = " %" if one.unit == "share" else ""
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
    """How it was made, and what a reader should know about it."""
    total = 2 * (evaluation.harmless + evaluation.unsafe) * evaluation.samples
    yield (
        f"{evaluation.samples} answers of each model to each prompt ({evaluation.prompts}), seed"
        f" {evaluation.seed};"
    )
    yield f"scored by {evaluation.judge}, refusals told apart by {evaluation.classifier}."
    if evaluation.unscored:
        yield f"! {evaluation.unscored} of {total} answers have no verdict: they are in no score."
    if evaluation.cost:
        yield f"The judge cost ${evaluation.cost:.4f}."
    elif evaluation.cost is None:
        yield "What the judge cost is not known."
    yield from (f"! {note}" for note in evaluation.notes)
