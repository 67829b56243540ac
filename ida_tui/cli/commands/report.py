"""`ida-tui report RUN`: a run as one HTML file, and as Markdown."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from ida_tui.errors import ExitCode
from ida_tui.util.text import as_json, printable

EPILOG = """\
examples:
  ida-tui report quickstart                      its newest run: report.html and report.md in its folder
  ida-tui report quickstart --open               and show it in the browser
  ida-tui report quickstart --output share.html  elsewhere; the Markdown is share.md, beside it
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "name", metavar="RUN", help="its folder, its id, or an experiment (its newest run)"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="the HTML file, or a folder (default: the run's own)"
    )
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    parser.add_argument("--json", action="store_true", help="where the files lie, as JSON")


def run(options: Namespace) -> ExitCode:
    """Write the report and say where it lies.

    Raises:
        UsageError: there is no such run, it cannot be read, or the files cannot be written.
    """
    from ida_tui.analysis.report import write as writing
    from ida_tui.runs.resume import find
    from ida_tui.util.paths import expanded, shown_path

    directory = find(options.name, Path("outputs"))
    written = writing.write(directory, expanded(options.output) if options.output else None)
    if options.json:
        print(as_json(writing.as_json(written)))
    else:
        for path in written:
            print(printable(shown_path(path)))
    if options.open:
        import webbrowser

        if not webbrowser.open(written.html.resolve().as_uri()):
            print("! no browser could be started; open the file yourself", file=sys.stderr)
    return ExitCode.DONE
