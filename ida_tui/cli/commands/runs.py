"""The command `ida-tui runs`: list the runs, newest first."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ida_tui.cli.output.lines import print_lines
from ida_tui.cli.output.runs import summary_json, summary_line
from ida_tui.errors import ExitCode, UsageError
from ida_tui.util.text import quoted

DEFAULT_LIMIT = 30
EPILOG = """\
examples:
  ida-tui runs                  list the newest runs of all experiments
  ida-tui runs quickstart --all
  ida-tui runs --json
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "experiment", nargs="?", metavar="EXPERIMENT", help="list only the runs of this experiment"
    )
    parser.add_argument(
        "--all", action="store_true", help=f"list all runs, not only the newest {DEFAULT_LIMIT}"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def run(options: Namespace) -> ExitCode:
    """Print the list.

    Raises:
        UsageError: the experiment has no runs.
    """
    from ida_tui.runs.catalog.index import list_matching_runs

    limit = None if options.all else DEFAULT_LIMIT
    shown, total = list_matching_runs(Path("outputs"), experiment=options.experiment, limit=limit)
    if options.experiment is not None and not total:
        raise UsageError(
            f"there is no run of an experiment named {quoted(options.experiment)}",
            "list all runs with: ida-tui runs",
        )
    if options.json:
        for summary in shown:
            print(summary_json(summary))
        return ExitCode.DONE
    lines = [summary_line(summary) for summary in shown]
    if not total:
        lines.append("No runs found. Start one with: ida-tui --run quickstart")
    elif total > len(shown):
        older = total - len(shown)
        lines.append(f"… and {older:,} older runs; list them with: ida-tui runs --all")
    print_lines(lines)
    return ExitCode.DONE
