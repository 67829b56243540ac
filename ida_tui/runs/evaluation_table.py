"""An evaluation as lines: a table of its figures, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ida_tui.runs.before_after import KINDS, signed
from ida_tui.runs.evaluations import Evaluation, Figure, Unit

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
        out += [_row(one, one.name.removeprefix(f"{kind} "), count) for one in own]
    out += ["", evaluation.verdict, *_about(evaluation)]
    return out


def _row(one: Figure, name: str, count: int) -> str:
    scale = 100 if one.unit == "share" else 1
    digits = DIGITS[one.unit]
    unit = {"share": " %", "tokens": " tokens"}.get(one.unit, "")
    name += " (tokens)" if unit == " tokens" else ""
    unit = unit if one.unit == "share" else ""
    before, after = (f"{scale * value:.{digits}f}{unit}" for value in (one.base, one.tuned))
    low, high = (signed(scale * value, digits) for value in (one.low, one.high))
    row = (
        f"  {name:<18}{before:>8}{after:>9}{signed(scale * one.difference, digits):>10}"
        f"   {low + ' to ' + high:<18}{_word(one)}"
    )
    if one.prompts < count:
        row += f" ({one.prompts} prompts have verdicts)"
    return row.rstrip()


def _word(one: Figure) -> str:
    if not one.differs:
        return ""
    if one.better == "neither":
        return "changed"
    return "better" if (one.difference > 0) == (one.better == "higher") else "worse"


def _about(evaluation: Evaluation) -> Iterator[str]:
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
