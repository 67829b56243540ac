"""Text table of an evaluation: its figures, its verdict, and how it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ida_tui.analysis.before_after import KINDS
from ida_tui.config.schema import PromptKind
from ida_tui.runs.store.evaluations import Evaluation, Figure, FigureUnit
from ida_tui.util.format import format_cost, format_count, format_number, format_signed

DECIMALS: Mapping[FigureUnit, int] = {
    "share": 0,
    "points": 1,
    "reward": 3,
    "score": 3,
    "tokens": 0,
}


def evaluation_lines(evaluation: Evaluation) -> list[str]:
    """The table, at most 80 columns wide, followed by the verdict and notes."""
    out = [
        f"{'':<20}{'before':>8}{'after':>9}{'change':>10}   95% interval",
    ]
    for kind in KINDS:
        figures, count = figures_of_kind(evaluation, kind)
        if not figures:
            continue
        out.append(kind_title(kind, count))
        out += [_format_row(figure, count) for figure in figures]
    out += ["", evaluation.verdict, *provenance_lines(evaluation)]
    return out


def figures_of_kind(evaluation: Evaluation, kind: PromptKind | None) -> tuple[list[Figure], int]:
    """The figures of the prompts of a kind, and their number; None is for prompts of no kind."""
    if kind is None:
        prefixes = tuple(f"{kind} " for kind in KINDS if kind)
        others = [figure for figure in evaluation.figures if not figure.name.startswith(prefixes)]
        return others, evaluation.unlabeled
    figures = [figure for figure in evaluation.figures if figure.name.startswith(f"{kind} ")]
    return figures, evaluation.harmless if kind == "harmless" else evaluation.unsafe


def kind_title(kind: PromptKind | None, count: int) -> str:
    """The title of a table: `harmless, 30 prompts`."""
    title = format_count(count, "prompt")
    return f"{kind}, {title}" if kind else title


class FigureCells(NamedTuple):
    """Text of one table row; cells without content are empty."""

    name: str
    before: str
    after: str
    change: str
    interval: str
    assessment: str
    """better, worse, changed or as before; empty if the interval allows none of them."""
    note: str


def figure_cells(figure: Figure, count: int) -> FigureCells:
    """The table cells of one figure.

    Args:
        figure: the figure; its name starts with the kind of its prompts, if they have one.
        count: number of prompts of that kind.
    """
    scale = 100 if figure.unit == "share" else 1
    digits = DECIMALS[figure.unit]
    unit = "%" if figure.unit == "share" else ""
    kind, _, measure = figure.name.partition(" ")
    name = measure if kind in KINDS else figure.name
    name += " (tokens)" if figure.unit == "tokens" else ""
    before, after = (
        f"{format_number(scale * value, digits)}{unit}" for value in (figure.base, figure.tuned)
    )
    low, high = (format_signed(scale * value, digits) for value in (figure.low, figure.high))
    note = (
        f"(verdicts of {format_count(figure.prompts, 'prompt')})" if figure.prompts < count else ""
    )
    change = format_signed(scale * figure.difference, digits)
    return FigureCells(name, before, after, change, f"{low} to {high}", _assessment(figure), note)


def _format_row(figure: Figure, count: int) -> str:
    row = figure_cells(figure, count)
    return (
        f"  {row.name:<18}{row.before:>8}{row.after:>9}{row.change:>10}"
        f"   {row.interval:<18}{row.assessment} {row.note}"
    ).rstrip()


def _assessment(figure: Figure) -> str:
    if figure.outcome in ("same", "unclear"):
        return "as before" if figure.outcome == "same" else ""
    if figure.better == "neither":
        return "changed"
    return "better" if figure.outcome == figure.better else "worse"


def provenance_lines(evaluation: Evaluation) -> Iterator[str]:
    """How the evaluation was made, with warnings and cost."""
    total = 2 * evaluation.prompt_count * evaluation.samples
    yield (
        f"{format_count(evaluation.samples, 'answer')} per model and prompt ({evaluation.prompts}), seed"
        f" {evaluation.seed};"
    )
    scorer = evaluation.judge or "reward functions"
    if evaluation.harmless or evaluation.unsafe:
        yield f"scored by {scorer}, refusals classified by {evaluation.classifier}."
    else:
        yield f"scored by {scorer}."
    if evaluation.unscored:
        what = "verdicts failed" if evaluation.judge else "answers have no reward"
        yield f"! {evaluation.unscored} of {total} {what}; the scores exclude these answers."
    if evaluation.cost:
        yield f"The judge cost {format_cost(evaluation.cost)}."
    elif evaluation.cost is None:
        yield "The cost of the judge is unknown."
    yield from (f"! {note}" for note in evaluation.notes)
