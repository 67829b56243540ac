"""The command `ida-tui report RUN`: write a report as one HTML file and as Markdown."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ida_tui.cli.arguments import add_run_argument
from ida_tui.cli.output.lines import print_lines, print_status
from ida_tui.errors import ExitCode
from ida_tui.util.text import as_json

EPILOG = """\
examples:
  ida-tui report quickstart                      write report.html and report.md in its newest run directory
  ida-tui report quickstart --open               also open it in the browser
  ida-tui report quickstart --output share.html  write share.html and share.md
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    add_run_argument(parser)
    parser.add_argument(
        "--output", metavar="FILE", help="HTML file or folder to write (default: the run directory)"
    )
    parser.add_argument("--open", action="store_true", help="open the report in the browser")
    parser.add_argument("--json", action="store_true", help="print the paths of the files as JSON")


def run(options: Namespace) -> ExitCode:
    """Write the report and print its paths.

    Raises:
        UsageError: there is no such run, it cannot be read, or the files cannot be written.
    """
    from ida_tui.analysis.report.write import paths_as_json, write_report
    from ida_tui.runs.catalog.lookup import find_run
    from ida_tui.util.paths import display_path, expand_home

    directory = find_run(options.name, Path("outputs"))
    paths = write_report(directory, expand_home(options.output) if options.output else None)
    if options.json:
        print(as_json(paths_as_json(paths)))
    else:
        for path in paths:
            print_lines([display_path(path)])
    if options.open:
        import webbrowser

        if not webbrowser.open(paths.html.resolve().as_uri()):
            print_status("! could not start a browser; open the file yourself")
    return ExitCode.DONE
