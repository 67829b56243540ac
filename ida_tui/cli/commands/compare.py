"""The command `ida-tui compare A B [C …]`: compare runs side by side."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from ida_tui.cli.output.lines import print_lines
from ida_tui.errors import ExitCode

EPILOG = """\
examples:
  ida-tui compare quickstart outputs/quickstart/20261124-123120
  ida-tui compare quickstart oblit-1-mps --json
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="two to six runs, each a run directory, run id, or experiment (its newest run)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures and curves as JSON")


def run(options: Namespace) -> ExitCode:
    """Print the comparison.

    Raises:
        UsageError: a run is missing or cannot be read, or there are too few or too many runs.
    """
    from ida_tui.analysis.comparison import compare_runs
    from ida_tui.analysis.comparison_text import as_json
    from ida_tui.cli.output.comparison import comparison_lines
    from ida_tui.runs.catalog.lookup import find_run

    comparison = compare_runs([find_run(name, Path("outputs")) for name in options.runs])
    if options.json:
        print(json.dumps(as_json(comparison), indent=1, ensure_ascii=False))
    else:
        print_lines(comparison_lines(comparison))
    return ExitCode.DONE
