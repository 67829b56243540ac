"""Entry point of the app: runs it, then restores the terminal and waits for a live run to stop."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from ida_tui.errors import ExitCode, UsageError
from ida_tui.tui.terminal import redirect_output

if TYPE_CHECKING:
    from queue import SimpleQueue

    from ida_tui.tui.run_view.watched import RunView

JOIN_TIMEOUT_S = 30.0
"""How long to wait for a run to stop after the app has closed."""


@dataclass(frozen=True, slots=True)
class RemoteRun:
    """A run of another machine, of which a copy is here."""

    copy: Path
    """Its run directory."""
    address: str
    """Where the run is."""
    messages: SimpleQueue[str]
    """Lines about the connection."""


def run_app(
    argv: Sequence[str],
    *,
    open_directory: Path | None = None,
    chat_directory: Path | None = None,
    remote: RemoteRun | None = None,
) -> ExitCode:
    """Run the app until the user quits.

    Args:
        argv: the command line as typed.
        open_directory: directory of a run or a sweep to open; None shows the launch screen.
        chat_directory: directory of a run to chat with.
        remote: a run of another machine to open.

    Raises:
        UsageError: stdin, stdout or stderr is not a terminal.
        IdaError: the app crashed.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "the app needs a terminal; stdin, stdout or stderr is not a terminal",
            "train without the app: ida-tui --run PROFILE; list all commands: ida-tui --help",
        )
    if os.environ.get("TERM") == "dumb":
        raise UsageError(
            "the app needs a terminal with cursor control, but TERM=dumb",
            "set TERM to your terminal's type, such as xterm-256color, or use ida-tui --run",
        )
    logs = platformdirs.user_log_path("ida-tui")
    library_log = logs / "terminal.log"
    # A collection would search all modules again and again while they are imported. The app turns it on
    # after its first paint.
    gc.disable()
    with redirect_output(library_log):
        from ida_tui.tui.app import IdaApp

        if remote is None:
            app = IdaApp(
                argv=argv,
                crash_log=logs / "crash.txt",
                open_directory=open_directory,
                chat_directory=chat_directory,
            )
        else:
            from ida_tui.tui.remote import RemoteApp

            app = RemoteApp(remote, argv=argv, crash_log=logs / "crash.txt")
        try:
            app.run()
        finally:
            app.chat_controller.close()
            _wait_for(app.run_view)
    if library_log.stat().st_size:
        print(f"output of libraries was saved to {library_log}", file=sys.stderr)
    if app.crash is not None:
        raise app.crash.error
    from ida_tui.runs import owner

    if app.run_controller.background_run is not None and owner.is_alive(
        app.run_controller.background_run.directory
    ):
        print(*app.run_controller.background_run.status_lines(), sep="\n")
    else:
        _print_result(app.run_view)
    return ExitCode(app.return_code or 0)


def _wait_for(run_view: RunView | None) -> None:
    """Stop a run of this process and wait up to `JOIN_TIMEOUT_S` for its checkpoint."""
    from ida_tui.tui.run_view.sources import LiveSource

    if run_view is not None and isinstance(run_view.source, LiveSource):
        run_view.source.session.request_stop()
        run_view.source.session.join(JOIN_TIMEOUT_S)


def _print_result(run_view: RunView | None) -> None:
    """Print how the run of this session ended and where it was saved."""
    if run_view is None or run_view.source.kind != "live" or run_view.directory is None:
        return
    while run_view.fold_new_records().more_waiting:
        pass
    ended = run_view.state.ended
    outcome = ended.message if ended else "the app closed before the run had stopped"
    print(f"{outcome} · {Path(run_view.directory)}")
