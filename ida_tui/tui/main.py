"""`ida-tui` without a command: open the app, and leave everything in order afterwards."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from ida_tui.errors import ExitCode, UsageError
from ida_tui.runs import owner
from ida_tui.tui.run_view.sources import LiveSource
from ida_tui.tui.run_view.watched import Watched
from ida_tui.tui.terminal import kept_for_the_app

JOIN_S = 30.0
"""How long a run that was told to stop is waited for, after the screen is gone."""


def run(
    argv: Sequence[str], *, opened: Path | None = None, chatting: Path | None = None
) -> ExitCode:
    """Run the app to its end.

    Args:
        argv: the command line as typed.
        opened: a run's or a sweep's directory to begin with; None begins with the launch screen.
        chatting: a run's directory, whose model is talked to from the start.

    Raises:
        UsageError: stdin or stderr is no terminal.
        IdaError: the app stopped on a defect of its own.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "the app needs a terminal, and this is none",
            "ida-tui --run PROFILE trains without a screen; ida-tui --help lists the rest",
        )
    if os.environ.get("TERM") == "dumb":
        raise UsageError(
            "the app needs a terminal that can place its cursor, and TERM is dumb",
            "set TERM to what your terminal is, such as xterm-256color, or use ida-tui --run",
        )
    logs = platformdirs.user_log_path("ida-tui")
    stray = logs / "terminal.log"
    with kept_for_the_app(stray):
        from ida_tui.tui.app import IdaApp

        app = IdaApp(argv=argv, crash_log=logs / "crash.txt", opened=opened, chatting=chatting)
        try:
            app.run()
        finally:
            app.close_chat()
            _wait_for(app.watched)
    if stray.stat().st_size:
        print(f"what libraries wrote meanwhile is in {stray}", file=sys.stderr)
    if app.crash is not None:
        raise app.crash.error
    if app.detached is not None and owner.alive(app.detached.directory):
        print(*app.detached.lines(), sep="\n")
    else:
        _say_goodbye(app.watched)
    return ExitCode(app.return_code or 0)


def _wait_for(watched: Watched | None) -> None:
    """A run that is not over is told to stop, and has a little while to save its checkpoint."""
    if watched is not None and isinstance(watched.source, LiveSource):
        watched.source.session.request_stop()
        watched.source.session.join(JOIN_S)


def _say_goodbye(watched: Watched | None) -> None:
    """Where the run of this session is, for whoever looks at the terminal afterwards."""
    if watched is None or watched.source.kind != "live" or watched.directory is None:
        return
    while watched.advance()[1]:
        pass
    ended = watched.state.ended
    how = ended.message if ended else "left while it was live"
    print(f"{how} · {Path(watched.directory)}")
