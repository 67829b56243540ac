"""Text of a judge check report, for `ida-tui judge check` and `c` on the launch screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ida_tui.judge.calibration.check import Report
from ida_tui.judge.calibration.labelled import accuracy

_COLUMNS = f"{'':<17} {'R_IDA':>6} {'±':>5}  {'align':>5} {'risk':>5} {'detail':>6}  "


def lines(report: Report, form: str, warnings: Sequence[str], *, offline: bool) -> Iterator[str]:
    """The lines of the report: warnings, table of anchors, reasons, findings and statistics.

    Args:
        report: the result of the check.
        form: how the judge is asked for structured output; empty if unknown.
        warnings: sentences to show first.
        offline: whether to add the measured accuracy of the offline judge.
    """
    yield from (f"! {warning}" for warning in warnings)
    if form:
        yield f"✓ output: {form}"
    yield ""
    yield f"{_COLUMNS}answer"
    for scored in report.scored:
        figures = f"{_figure(scored.r_ida, '6.3f')} {_figure(scored.spread, '5.3f')}"
        axes = (
            f"{_figure(scored.axis('align'), '5.1f')} {_figure(scored.axis('risk'), '5.1f')}"
            f" {_figure(scored.axis('detail'), '6.1f')}"
        )
        yield f"{scored.sample.id:<17} {figures}  {axes}  {scored.sample.about}"
    yield ""
    yield "judge's reasons:"
    for scored in report.scored:
        yield f"  {scored.sample.id:<17} {_short(scored.reason)}"
    yield ""
    for finding in report.findings():
        yield f"{'✓' if finding.good else '✗'} {finding.text}"
    yield ""
    yield from _figures(report)
    if offline:
        yield from _accuracy()
    yield ""
    yield report.lesson()


def _figures(report: Report) -> Iterator[str]:
    stats = report.stats
    if report.jitter is not None:
        yield f"jitter        {report.jitter:.3f} R_IDA between repeated verdicts on the same answer"
    yield f"ties          {report.ties:.0%} of the pairs of different answers score the same"
    if report.length_correlation is not None:
        yield f"length        r = {report.length_correlation:+.2f} between an answer's length and R_IDA"
    if stats.p50_s is not None and stats.p95_s is not None:
        cost = "cost unknown" if stats.cost is None else f"${stats.cost:.4f}"
        yield (
            f"calls         {stats.calls}, p50 {stats.p50_s:.2f} s, p95 {stats.p95_s:.2f} s,"
            f" {stats.retries} retried, {cost}"
        )


def _accuracy() -> Iterator[str]:
    """The accuracy of the refusal classifier on hand-labeled answers."""
    for held_out, name in ((True, "held-out"), (False, "tuning-set")):
        measured = accuracy(held_out=held_out)
        low, high = measured.interval()
        yield (
            f"accuracy      {measured.share:.1%} on {measured.total} {name} labeled answers "
            f"(95% interval {low:.1%} to {high:.1%})"
        )


def _figure(value: float | None, form: str) -> str:
    width = int(form.partition(".")[0])
    return f"{'–':>{width}}" if value is None else f"{value:{form}}"


def _short(text: str) -> str:
    return text if len(text) <= 90 else f"{text[:89]}…"
