"""`ida-tui runs`: what was trained here, newest first."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ida_tui.errors import ExitCode
from ida_tui.util.text import as_json, printable

if TYPE_CHECKING:
    from ida_tui.runs.catalog.summary import RunSummary

SHOWN = 30
EPILOG = """\
examples:
  ida-tui runs                  the newest of all experiments
  ida-tui runs quickstart --all
  ida-tui runs --json
"""
MARKS = {"done": "✓", "live": "●", "interrupted": "‖"}


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("experiment", nargs="?", help="only the runs of this one")
    parser.add_argument("--all", action="store_true", help=f"more than the newest {SHOWN}")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(options: Namespace) -> ExitCode:
    """Print the list."""
    from ida_tui.runs.catalog.index import listing

    most = None if options.all else SHOWN
    shown, total = listing(Path("outputs"), experiment=options.experiment, most=most)
    for one in shown:
        print(_json(one) if options.json else printable(line(one)))
    if options.json:
        return ExitCode.DONE
    if not total:
        print("no runs here yet: ida-tui --run quickstart")
    elif total > len(shown):
        print(f"… and {total - len(shown):,} older ones: ida-tui runs --all")
    return ExitCode.DONE


def line(one: RunSummary) -> str:
    """A run as one line: what it is, how it stands, what it was worth."""
    name = f"{one.experiment}/{one.run_id}"
    steps = f"{one.steps_done}/{one.steps}" if one.steps else "–"
    worth = "" if one.r_ida_last is None else f"R_IDA {one.r_ida_last:.3f}"
    if one.r_ida_first is not None and one.r_ida_last is not None:
        worth = f"R_IDA {one.r_ida_first:.3f} → {one.r_ida_last:.3f}"
    said = one.problem or worth
    mark, status = MARKS.get(one.status, "✗"), one.status.replace("_", " ")
    return f"{mark} {name:<40} {status:<17} {steps:>9} steps  {one.model}  {said}".rstrip()


def _json(one: RunSummary) -> str:
    return as_json({**one._asdict(), "path": str(one.path)})
