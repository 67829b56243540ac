"""The command `ida-tui attach [RUN]`: follow a run; or pause, resume or stop a live one.

With `--serve`, browsers on this machine can show the run, read-only. RUN may be on another machine.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ida_tui.cli.output.lines import print_lines
from ida_tui.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from ida_tui.runs.control import ControlRequest
    from ida_tui.runs.directory import RunDirectory

DEFAULT_PORT = 8765
"""Default port of `--serve`."""

EPILOG = """\
examples:
  ida-tui attach                      show the newest run in the app
  ida-tui attach quickstart --lines   print lines, such as over a slow connection
  ida-tui attach quickstart --serve   show it in a browser on this machine, read-only
  ida-tui attach quickstart --pause   pause the run after the current step; --resume resumes it
  ida-tui attach ssh://gpu-box/~/outputs/quickstart/latest   follow a run on another machine
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "name",
        nargs="?",
        metavar="RUN",
        help="run directory, run id, or experiment (its newest run); ssh://[user@]host[:port]/path for a"
        " run on another machine; or a sweep's directory or id",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--lines", action="store_true", help="print lines instead of opening the app")
    mode.add_argument("--json", action="store_true", help="print events as JSON lines")
    mode.add_argument(
        "--serve", action="store_true", help="show the run in browsers on this machine"
    )
    mode.add_argument("--pause", action="store_true", help="pause the run after the current step")
    mode.add_argument("--resume", action="store_true", help="resume the run")
    mode.add_argument(
        "--stop", action="store_true", help="stop the run, which saves a checkpoint first"
    )
    parser.add_argument(
        "--port",
        type=int,
        metavar="N",
        help=f"with --serve: port on 127.0.0.1 (default {DEFAULT_PORT})",
    )


def run(options: Namespace) -> ExitCode:
    """Follow the run, or send it a request to pause, resume or stop.

    Raises:
        UsageError: there is no such run, no process is training it, or it cannot be served.
    """
    if options.port is not None and not options.serve:
        raise UsageError("--port needs --serve", "ida-tui attach RUN --serve --port N")
    from ida_tui.runs.remote.address import is_remote

    if options.name and is_remote(options.name):
        from ida_tui.cli.remote import attach_remote

        return attach_remote(options)
    from ida_tui.runs.catalog.lookup import find_run, newest_run

    outputs = Path("outputs")
    if options.name and (sweep := _find_sweep(options.name, outputs)):
        return _show_sweep(sweep, options)
    directory = find_run(options.name, outputs) if options.name else newest_run(outputs)
    if request := asked_request(options):
        return _send_request(directory, request)
    if options.serve:
        return serve_run(directory, options.port)
    if not options.lines and not options.json and sys.stdin.isatty() and sys.stdout.isatty():
        from ida_tui.tui.main import run_app

        return run_app(sys.argv, open_directory=directory.path)
    from ida_tui.cli.output.follow import follow_run

    return follow_run(directory, as_json=options.json)


def asked_request(options: Namespace) -> ControlRequest | None:
    """The request that the flags ask for."""
    if options.pause:
        return "pause"
    if options.resume:
        return "go_on"
    return "stop" if options.stop else None


def _find_sweep(name: str, outputs: Path) -> Path | None:
    from ida_tui.sweep.directory import find_directory

    return find_directory(name, outputs)


def _show_sweep(path: Path, options: Namespace) -> ExitCode:
    """Show a sweep as a table; requests and other outputs are only for single runs."""
    from ida_tui.util.paths import display_path

    shown = display_path(path)
    flags = (
        options.lines,
        options.json,
        options.serve,
        options.pause,
        options.resume,
        options.stop,
    )
    if any(flags):
        raise UsageError(
            f"{shown} is a sweep, and this flag is only for runs",
            f"show its table with: ida-tui sweep --show {shown}; resume with: ida-tui sweep --resume {shown}",
        )
    if sys.stdin.isatty() and sys.stdout.isatty():
        from ida_tui.tui.main import run_app

        return run_app(sys.argv, open_directory=path)
    from ida_tui.cli.output.sweep import show_sweep
    from ida_tui.sweep import directory

    return show_sweep(directory.read(path), json=False)


def serve_run(directory: RunDirectory, port: int | None) -> ExitCode:
    """Show a run in browsers on this machine; the default port is `DEFAULT_PORT`.

    Raises:
        UsageError: it cannot be served.
    """
    from importlib.util import find_spec

    if find_spec("aiohttp") is None:
        raise UsageError(
            "--serve needs aiohttp, which is not installed",
            "uv sync --extra serve   or   pip install 'ida-tui[serve]'",
        )
    from ida_tui.tui.web.server import serve

    return serve(directory.path, port=DEFAULT_PORT if port is None else port)


CONFIRMATIONS = {
    "pause": "Pause requested; training pauses after the current step",
    "go_on": "Resume requested",
    "stop": "Stop requested; a checkpoint will be saved",
}


def _send_request(directory: RunDirectory, request: ControlRequest) -> ExitCode:
    from ida_tui.runs import control, owner
    from ida_tui.util.paths import display_path

    shown = display_path(directory.path)
    if not owner.is_alive(directory):
        raise UsageError(f"no process is training {shown}", f"resume with: ida-tui resume {shown}")
    try:
        control.send_request(directory, request)
    except OSError as error:
        raise UsageError(f"could not write to {shown}: {error.strerror or error}") from None
    print_lines([f"✓ {CONFIRMATIONS[request]} ({shown})"])
    return ExitCode.DONE
