"""`ida-tui attach [RUN]`: follow a run, live or finished; or ask a live one to pause, go on or stop.

With `--serve` browsers on this machine may look at it.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ida_tui.errors import ExitCode, UsageError
from ida_tui.util.text import printable

if TYPE_CHECKING:
    from ida_tui.runs.control import Asked
    from ida_tui.runs.directory import RunDirectory

PORT = 8765
"""Where `--serve` is found unless told otherwise."""

EPILOG = """\
examples:
  ida-tui attach                      the newest run, on the screens of the app
  ida-tui attach quickstart --lines   as lines, such as over a slow connection
  ida-tui attach quickstart --serve   in a browser on this machine, to be looked at only
  ida-tui attach quickstart --pause   pause it after the step under way; --resume lets it go on
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "name",
        nargs="?",
        metavar="RUN",
        help="its folder, its id, or an experiment (its newest run); or a sweep's folder or id",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--lines", action="store_true", help="lines instead of the app")
    how.add_argument("--json", action="store_true", help="events as JSON lines")
    how.add_argument("--serve", action="store_true", help="show it to browsers on this machine")
    how.add_argument("--pause", action="store_true", help="ask it to pause after this step")
    how.add_argument("--resume", action="store_true", help="ask it to go on")
    how.add_argument("--stop", action="store_true", help="ask it to stop; it saves a checkpoint")
    parser.add_argument(
        "--port", type=int, metavar="N", help=f"with --serve: on 127.0.0.1 (default {PORT})"
    )


def run(options: Namespace) -> ExitCode:
    """Follow the run, or ask it for something.

    Raises:
        UsageError: there is no such run, nobody trains it, or it cannot be served.
    """
    if options.port is not None and not options.serve:
        raise UsageError("--port goes with --serve", "ida-tui attach RUN --serve --port N")
    from ida_tui.runs.resume import find, newest

    outputs = Path("outputs")
    if options.name and (sweep := _sweep(options.name, outputs)):
        return _follow_sweep(sweep, options)
    directory = find(options.name, outputs) if options.name else newest(outputs)
    if options.pause:
        return _ask(directory, "pause")
    if options.resume:
        return _ask(directory, "go_on")
    if options.stop:
        return _ask(directory, "stop")
    if options.serve:
        return _serve(directory, PORT if options.port is None else options.port)
    if not options.lines and not options.json and sys.stdin.isatty() and sys.stdout.isatty():
        from ida_tui.tui.main import run as app

        return app(sys.argv, opened=directory.path)
    from ida_tui.cli.output.follow import follow

    return follow(directory, as_json=options.json)


def _sweep(name: str, outputs: Path) -> Path | None:
    from ida_tui.sweep import directory as folder

    return folder.known(name, outputs)


def _follow_sweep(path: Path, options: Namespace) -> ExitCode:
    """A sweep is looked at as a table; what is asked of a run is asked of one of its runs."""
    from ida_tui.util.paths import shown_path

    shown = shown_path(path)
    asked = (
        options.lines,
        options.json,
        options.serve,
        options.pause,
        options.resume,
        options.stop,
    )
    if any(asked):
        raise UsageError(
            f"{shown} is a sweep, and that is for a run",
            f"its table: ida-tui sweep --show {shown} (--json); ida-tui sweep --resume goes on with it",
        )
    if sys.stdin.isatty() and sys.stdout.isatty():
        from ida_tui.tui.main import run as app

        return app(sys.argv, opened=path)
    from ida_tui.cli.output.sweep import show
    from ida_tui.sweep import directory as folder

    return show(folder.read(path), json=False)


def _serve(directory: RunDirectory, port: int) -> ExitCode:
    from importlib.util import find_spec

    if find_spec("aiohttp") is None:
        raise UsageError(
            "--serve needs aiohttp, which is not installed",
            "uv sync --extra serve   or   pip install 'ida-tui[serve]'",
        )
    from ida_tui.tui.web.server import serve

    return serve(directory.path, port=port)


SAID = {
    "pause": "it pauses after the step under way",
    "go_on": "it goes on",
    "stop": "it stops, with a checkpoint",
}


def _ask(directory: RunDirectory, what: Asked) -> ExitCode:
    from ida_tui.runs import control, owner
    from ida_tui.util.paths import shown_path

    shown = shown_path(directory.path)
    if not owner.alive(directory):
        raise UsageError(f"nobody trains {shown} now", f"go on with it: ida-tui resume {shown}")
    try:
        control.ask(directory, what)
    except OSError as error:
        raise UsageError(f"{shown} cannot be written to: {error.strerror or error}") from None
    print(printable(f"✓ asked: {SAID[what]} ({shown})"))
    return ExitCode.DONE
