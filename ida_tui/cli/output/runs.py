"""One run in the list of `ida-tui runs`, as a text line and as a JSON value. Pure functions."""

from __future__ import annotations

from ida_tui.config.scoring.axes import IDA_REWARD
from ida_tui.runs.catalog.summary import RunSummary
from ida_tui.util.format import format_number
from ida_tui.util.text import as_json

STATUS_MARKS = {"done": "✓", "live": "●", "interrupted": "‖"}


def summary_line(summary: RunSummary) -> str:
    """A run as one line: name, status, steps, model and reward."""
    name = f"{summary.experiment}/{summary.run_id}"
    steps = f"{summary.steps_done}/{summary.steps}" if summary.steps else "–"
    name_of_reward = summary.reward or IDA_REWARD
    reward = (
        ""
        if summary.reward_last is None
        else f"{name_of_reward} {format_number(summary.reward_last)}"
    )
    if summary.reward_first is not None and summary.reward_last is not None:
        change = f"{format_number(summary.reward_first)} → {format_number(summary.reward_last)}"
        reward = f"{name_of_reward} {change}"
    note = summary.problem or reward
    mark, status = STATUS_MARKS.get(summary.status, "✗"), summary.status.replace("_", " ")
    return f"{mark} {name:<40} {status:<17} {steps:>9} steps  {summary.model}  {note}".rstrip()


def summary_json(summary: RunSummary) -> str:
    """A run as one line of JSON."""
    return as_json({**summary._asdict(), "path": str(summary.path)})
