"""The command `ida-tui runs`: list the runs, newest first."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ida_tui.errors import ExitCode
from ida_tui.util.text import as_json, one_line

if TYPE_CHECKING:
    from ida_tui.runs.catalog.summary import RunSummary

DEFAULT_LIMIT = 30
EPILOG = """\
examples:
  ida-tui runs                  list the newest runs of all experiments
  ida-tui runs quickstart --all
  ida-tui runs --json
"""
STATUS_MARKS = {"done": "✓", "live": "●", "interrupted": "‖"}


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("experiment", nargs="?", help="list only the runs of this experiment")
    parser.add_argument(
        "--all", action="store_true", help=f"list all runs, not only the newest {DEFAULT_LIMIT}"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def run(options: Namespace) -> ExitCode:
    """Print the list."""
    from ida_tui.runs.catalog.index import list_matching_runs

    limit = None if options.all else DEFAULT_LIMIT
    shown, total = list_matching_runs(Path("outputs"), experiment=options.experiment, limit=limit)
    for summary in shown:
        print(_summary_json(summary) if options.json else one_line(summary_line(summary)))
    if options.json:
        return ExitCode.DONE
    if not total:
        print("No runs found. Start one with: ida-tui --run quickstart")
    elif total > len(shown):
        print(f"… and {total - len(shown):,} older runs; list them with: ida-tui runs --all")
    return ExitCode.DONE


def summary_line(summary: RunSummary) -> str:
    """A run as summary line: name, status, steps, model and reward."""
    name = f"{summary.experiment}/{summary.run_id}"
    steps = f"{summary.steps_done}/{summary.steps}" if summary.steps else "–"
    reward = "" if summary.r_ida_last is None else f"R_IDA {summary.r_ida_last:.3f}"
    if summary.r_ida_first is not None and summary.r_ida_last is not None:
        reward = f"R_IDA {summary.r_ida_first:.3f} → {summary.r_ida_last:.3f}"
    note = summary.problem or reward
    mark, status = STATUS_MARKS.get(summary.status, "✗"), summary.status.replace("_", " ")
    return f"{mark} {name:<40} {status:<17} {steps:>9} steps  {summary.model}  {note}".rstrip()


def _summary_json(summary: RunSummary) -> str:
    return as_json({**summary._asdict(), "path": str(summary.path)})
