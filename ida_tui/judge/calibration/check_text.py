"""Text of a judge check report, for `ida-tui judge check` and `c` on the launch screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from ida_tui.judge.calibration.check import JudgeCheckReport
from ida_tui.judge.calibration.gold_text import gold_lines
from ida_tui.judge.calibration.labeled import (
    GroupAccuracy,
    load_measured_families,
    measure_accuracy,
    measure_by_language,
)
from ida_tui.util.finding import MARKS
from ida_tui.util.format import format_cost, format_number, format_signed

TABLE_WIDTH = 100
"""Width of the text below a table, in columns."""
_SHOWN_FIGURES = {"repeats": "agreement", "position": "position"}
"""Figures of the verdicts' quality that this report adds to its own; name and label."""


def render_report(
    report: JudgeCheckReport,
    output_format: str,
    warnings: Sequence[str],
    *,
    offline: bool,
    tokens: str = "",
) -> Iterator[str]:
    """The lines of the report: warnings, table of anchors, reasons, findings and statistics.

    Args:
        report: the result of the check.
        output_format: how the judge is asked for structured output; empty if unknown.
        warnings: sentences to show first.
        offline: whether to add the measured accuracy of the offline judge.
        tokens: calls and tokens of both modes, in words; empty in absolute mode.
    """
    yield from (f"! {warning}" for warning in warnings)
    if output_format and report.has_verdicts:
        yield f"✓ output: {output_format}"
    yield from _report_lines(report)
    if tokens:
        yield f"tokens        {tokens}"
    if offline:
        yield from _accuracy_lines()
    for member in report.members:
        yield ""
        yield f"{member.judge}, a judge of the panel:"
        yield from _report_lines(member)
        yield ""
        yield member.predicted_lesson()
    if report.gold is not None:
        yield from gold_lines(report.gold)
    yield ""
    if report.members:
        yield f"The panel, {report.judge}:"
    yield report.predicted_lesson()


def _report_lines(report: JudgeCheckReport) -> Iterator[str]:
    """The table of anchors, reasons, findings and statistics of one judge."""
    yield ""
    widths = {axis: max(5, len(axis)) for axis in report.axes}
    columns = " ".join(f"{axis:>{width}}" for axis, width in widths.items())
    reward_width = max(6, len(report.reward))
    yield f"{'':<17} {report.reward:>{reward_width}} {'±':>5}  {columns}  answer"
    for scored in report.anchors:
        scores = " ".join(
            f"{format_number(scored.mean_score(axis), 1):>{width}}"
            for axis, width in widths.items()
        )
        reward = f"{format_number(scored.reward):>{reward_width}}"
        yield (
            f"{scored.anchor.id:<17} {reward} {format_number(scored.spread):>5}  {scores}"
            f"  {scored.anchor.description}"
        )
    yield ""
    yield "judge's reasons:"
    for scored in report.anchors:
        yield f"  {scored.anchor.id:<17} {_truncate(scored.reason)}"
    yield ""
    for finding in report.findings():
        yield f"{MARKS[finding.severity]} {finding.text}"
    yield ""
    yield from _metric_lines(report)


def _metric_lines(report: JudgeCheckReport) -> Iterator[str]:
    stats = report.stats
    if report.jitter is not None:
        yield (
            f"jitter        {report.jitter:.3f} {report.reward} between repeated verdicts on the same"
            " answer"
        )
    for figure in report.quality.figures():
        if figure.name in _SHOWN_FIGURES:
            yield f"{_SHOWN_FIGURES[figure.name]:<13} {figure.text}"
    if report.tie_share is not None:
        yield f"ties          {report.tie_share:.0%} of the pairs of different answers score the same"
    if report.length_correlation is not None:
        correlation = format_signed(report.length_correlation, 2)
        yield f"length        r = {correlation} between an answer's length and {report.reward}"
    if stats.p50_s is not None and stats.p95_s is not None:
        cost = format_cost(stats.cost, "cost unknown")
        yield (
            f"calls         {stats.calls}, p50 {stats.p50_s:.2f} s, p95 {stats.p95_s:.2f} s,"
            f" {stats.retries} retried, {cost}"
        )


def _accuracy_lines() -> Iterator[str]:
    """The accuracy of the refusal classifier on hand-labeled answers, by language and model family."""
    for held_out, name in ((True, "held-out"), (False, "tuning-set")):
        measured = measure_accuracy(held_out=held_out)
        interval = measured.interval
        yield (
            f"accuracy      {measured.share:.1%} on {measured.total} {name} labeled answers "
            f"(95% interval {interval.low:.1%} to {interval.high:.1%})"
        )
    source, families = load_measured_families()
    yield ""
    yield from group_lines("language, held-out answers", measure_by_language())
    yield "not measured in other languages: their answers have no class, and no figure counts them"
    yield ""
    yield from group_lines("model family", families)
    yield from wrap(f"measured once on {source}", TABLE_WIDTH)


def group_lines(title: str, groups: Sequence[GroupAccuracy]) -> Iterator[str]:
    """A table: one line for each language or model family."""
    yield f"{title:<29} {'answers':>7}  {'tells compliance from refusal':<31} {'right class':>11}"
    for group in groups:
        low, high = group.interval.low, group.interval.high
        right = f"{group.interval.value:6.1%}  ({low:.1%} to {high:.1%})"
        yield f"{group.name:<29} {group.answers:>7}  {right:<31} {group.exact:>11.1%}"


def _truncate(text: str) -> str:
    return text if len(text) <= 90 else f"{text[:89]}…"
