"""Text and JSON of a reward check report, for `ida-tui reward check` and `c` on the launch screen."""

from __future__ import annotations

from collections.abc import Iterator

from ida_tui.config.scoring.axes import format_score
from ida_tui.rewards.check import ASSUMED_SCORE, RewardCheckReport
from ida_tui.rewards.known_answers import ANSWER_KINDS
from ida_tui.util.finding import MARKS
from ida_tui.util.format import UNKNOWN, format_general, format_significant
from ida_tui.util.text import table_lines


def render_report(report: RewardCheckReport) -> Iterator[str]:
    """The lines of the report: table of answers, findings, ranges and times; the last is the lesson."""
    yield from (f"! {note}" for note in report.notes)
    if report.assumes_judge:
        names = ", ".join(axis.name for axis in report.axes if axis.kind == "judged")
        yield f"! the judge is not asked: {names} count {ASSUMED_SCORE:g} of 10 (ask it with --judge)"
    if report.groups:
        yield ""
        yield from _answer_table(report)
        yield ""
    for finding in report.findings():
        yield f"{MARKS[finding.severity]} {finding.text}"
    yield ""
    yield from _metric_lines(report)
    yield ""
    yield report.lesson()


def _answer_table(report: RewardCheckReport) -> Iterator[str]:
    names = [report.reward_name, *(axis.name for axis in report.axes)]
    rows = [
        (
            kind,
            [
                format_significant(report.mean_reward(kind)),
                *(format_score(report.mean_score(kind, axis.name), axis) for axis in report.axes),
            ],
        )
        for kind in report.kinds
    ]
    lines = table_lines(names, rows)
    width = max(map(len, lines))
    descriptions = ["answer", *(ANSWER_KINDS[kind] for kind in report.kinds)]
    for line, description in zip(lines, descriptions, strict=True):
        yield f"{line:<{width}}   {description}"


def _metric_lines(report: RewardCheckReport) -> Iterator[str]:
    reward = report.value_range()
    if reward is not None:
        yield f"{'range':<12}  {report.reward_name} {_range_text(reward)}"
    for axis in report.axes:
        values = report.value_range(axis.name)
        if axis.kind == "judged" or values is None:
            continue
        low, high = (
            UNKNOWN if end is None else format_general(end) for end in (axis.low, axis.high)
        )
        declared = (
            "no range declared" if axis.low is axis.high is None else f"declared: {low} to {high}"
        )
        yield f"{'':<12}  {axis.name} {_range_text(values)} ({declared})"
    for function in report.functions:
        yield f"{'time':<12}  {1e3 * function.seconds:.3g} ms per completion for {function.label}"


def _range_text(values: tuple[float, float]) -> str:
    return f"from {format_significant(values[0])} to {format_significant(values[1])}"


def as_json(report: RewardCheckReport) -> dict[str, object]:
    """The report as JSON-serializable values."""
    return {
        "trusted": report.trusted,
        "lesson": report.lesson(),
        "reward": report.reward_name,
        "formula": report.formula,
        "axes": [axis._asdict() for axis in report.axes],
        "judge": report.judge,
        "gold_column": report.gold_column,
        "findings": [
            {"good": f.severity == "good", "severity": f.severity, "about": f.about, "text": f.text}
            for f in report.findings()
        ],
        "notes": list(report.notes),
        "kinds": [
            {
                "kind": kind,
                "description": ANSWER_KINDS[kind],
                "reward": report.mean_reward(kind),
                "scores": {axis.name: report.mean_score(kind, axis.name) for axis in report.axes},
            }
            for kind in report.kinds
        ],
        "answers": [
            {
                "kind": checked.answer.kind,
                "prompt_id": checked.answer.prompt.id,
                "text": checked.answer.text,
                "scores": dict(checked.scores),
                "reward": checked.reward,
                "failures": dict(checked.failures),
            }
            for checked in report.answers
        ],
        "functions": [
            {"function": f.label, "axes": list(f.axes), "seconds": f.seconds}
            for f in report.functions
        ],
    }
