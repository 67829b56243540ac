"""`ida-tui attach [RUN]`: follow a run, live or finished; or ask a live one to pause, go on or stop."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ida_tui.errors import ExitCode, UsageError
from ida_tui.printable import printable

if TYPE_CHECKING:
    from ida_tui.runs.control import Asked
    from ida_tui.runs.directory import RunDirectory

EPILOG = """\
examples:
  ida-tui attach                      the newest run, on the screens of the app
  ida-tui attach quickstart --lines   as lines, such as over a slow connection
  ida-tui attach quickstart --pause   pause it after the step under way; --resume lets it go on
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "name",
        nargs="?",
        metavar="RUN",
        help="its folder, its id, or an experiment (its newest run)",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--lines", action="store_true", help="lines instead of the app")
    how.add_argument("--json", action="store_true", help="events as JSON lines")
    how.add_argument("--pause", action="store_true", help="ask it to pause after this step")
    how.add_argument("--resume", action="store_true", help="ask it to go on")
    how.add_argument("--stop", action="store_true", help="ask it to stop; it saves a checkpoint")


def run(options: Namespace) -> ExitCode:
    """Follow the run, or ask it for something.

    Raises:
        UsageError: there is no such run, or nobody trains it.
    """
    from ida_tui.runs.resumption import find, newest

    outputs = Path("outputs")
    directory = find(options.name, outputs) if options.name else newest(outputs)
    if options.pause:
        return _ask(directory, "pause")
    if options.resume:
        return _ask(directory, "go_on")
    if options.stop:
        return _ask(directory, "stop")
    if not options.lines and not options.json and sys.stdin.isatty() and sys.stdout.isatty():
        from ida_tui.tui.main import run as app

        return app(sys.argv, opened=directory.path)
    from ida_tui.headless.attach import follow

    return follow(directory, as_json=options.json)


SAID = {
    "pause": "it pauses after the step under way",
    "go_on": "it goes on",
    "stop": "it stops, with a checkpoint",
}


def _ask(directory: RunDirectory, what: Asked) -> ExitCode:
    from ida_tui.paths import shown_path
    from ida_tui.runs import control, owner

    shown = shown_path(directory.path)
    if not owner.alive(directory):
        raise UsageError(f"nobody trains {shown} now", f"go on with it: ida-tui resume {shown}")
    try:
        control.ask(directory, what)
    except OSError as error:
        raise UsageError(f"{shown} cannot be written to: {error.strerror or error}") from None
    print(printable(f"✓ asked: {SAID[what]} ({shown})"))
    return ExitCode.DONE
