"""Text of gold answers and of a judge's accuracy on them, for `ida-tui judge check` and `--check`."""

from __future__ import annotations

from collections.abc import Iterator

from ida_tui.config.schema import Config
from ida_tui.errors import UsageError
from ida_tui.events.judge_quality import percent_interval
from ida_tui.judge.calibration.gold import load_gold_of
from ida_tui.judge.calibration.gold_report import GoldAxis, GoldReport
from ida_tui.util.finding import MARKS
from ida_tui.util.format import (
    format_cost,
    format_count,
    format_number,
    format_percent,
)
from ida_tui.util.text import one_line

_EXCERPT_CHARS = 60


def gold_summary(config: Config) -> str:
    """How many gold answers an experiment names, or why they cannot be used; empty if it names none."""
    try:
        gold = load_gold_of(config)
    except UsageError as error:
        return f"cannot be used: {error.title}" + (f" ({error.where})" if error.where else "")
    if gold is None:
        return ""
    prompts = len({answer.prompt_key for answer in gold.answers})
    counts = f"{format_count(len(gold.answers), 'answer')} to {format_count(prompts, 'prompt')}"
    return f"{gold.name}: {counts}, for ida-tui judge check"


def gold_lines(report: GoldReport) -> Iterator[str]:
    """The lines of the report: counts, figures of each axis, findings and the worst disagreements."""
    yield ""
    cost = format_cost(report.cost, "cost unknown")
    yield (
        f"gold answers  {report.name}: {format_count(report.answers, 'answer')} to"
        f" {format_count(report.prompts, 'prompt')}, {format_count(report.calls, 'call')}, {cost}"
    )
    yield from (f"! {note}" for note in report.notes)
    if report.prompts > 1:
        yield "  each share is the mean of the prompts' shares"
    width = max((len(axis.axis) for axis in report.axes), default=0)
    for axis in report.axes:
        for number, text in enumerate(_axis_texts(axis)):
            yield f"  {'' if number else axis.axis:<{width}}  {text}"
    yield ""
    for finding in report.findings():
        yield f"{MARKS[finding.severity]} {finding.text}"
    if not report.disagreements:
        return
    yield ""
    yield "worst disagreements:"
    for each in report.disagreements:
        yield f"  {each.where}  {each.axis}: you: {each.gold}; the judge: {each.judged}"
        yield f"    {_excerpt(each.prompt)} → {_excerpt(each.completion)}"
        if each.reason:
            yield f"    judge: {_excerpt(each.reason, 2 * _EXCERPT_CHARS)}"


def _axis_texts(axis: GoldAxis) -> Iterator[str]:
    if axis.order is not None:
        where = f", {format_count(axis.prompts, 'prompt')}" if axis.prompts else " across prompts"
        yield (
            f"order           {format_percent(axis.order.value)} ({format_count(axis.pairs, 'pair')}{where},"
            f" {percent_interval(axis.order)})"
        )
    if axis.close is not None and axis.bias is not None:
        yield (
            f"within a point  {format_percent(axis.close.value)} ({format_count(axis.scores, 'score')},"
            f" {percent_interval(axis.close)}); the judge's are {_bias_text(axis.bias)} on average"
        )
    if axis.accuracy is not None:
        yield f"labels          {format_percent(axis.accuracy.value)} ({percent_interval(axis.accuracy)})"
    for figure in axis.labels:
        right = "" if figure.right is None else f", {figure.right} on its side of the scale"
        digits = 2 if figure.right is None else 1
        yield (
            f"  {figure.label:<13} {format_count(figure.answers, 'answer')}, mean"
            f" {format_number(figure.mean, digits)}{right}"
        )


def _bias_text(points: float) -> str:
    """How much higher or lower than a person's the scores of a judge are."""
    size = format_number(abs(points), 1)
    if size == format_number(0.0, 1):
        return "as high"
    return f"{size} points {'higher' if points > 0 else 'lower'}"


def _excerpt(text: str, length: int = _EXCERPT_CHARS) -> str:
    line = one_line(" ".join(text.split()))
    return line if len(line) <= length else f"{line[: length - 1]}…"
