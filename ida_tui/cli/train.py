"""Training without the app (`ida-tui --run`): start a session, print its records, handle signals."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence

from ida_tui.api import run_session
from ida_tui.cli.output.printer import HumanPrinter, JsonPrinter, Printer
from ida_tui.cli.output.streams import background_output
from ida_tui.config.schema import Config, JudgeKey
from ida_tui.engine.distributed.environment import process_info
from ida_tui.engine.session import Session
from ida_tui.errors import ExitCode
from ida_tui.events.state import RunState
from ida_tui.runs.resume import ResumePoint
from ida_tui.system.signals import STOP_SIGNALS, handle_signals

SAME_REQUEST_S = 3.0
"""Seconds within which signals passed on by a launcher count as one request."""


def train(
    config: Config,
    *,
    key: JudgeKey,
    argv: Sequence[str],
    as_json: bool,
    resume: ResumePoint | None = None,
) -> ExitCode:
    """Train a profile to its end and print the run.

    Args:
        config: the resolved profile.
        key: the judge's API key, if it needs one.
        argv: the command line as typed.
        as_json: print events as JSON lines on stdout instead of lines for people.
        resume: the run to resume; None starts a new run.

    Returns:
        The exit code of the run.

    Raises:
        IdaError: the run could not start.
    """
    session = Session(config, key=key, argv=argv, resume=resume)
    with background_output():
        printer: Printer = JsonPrinter() if as_json else HumanPrinter()
        printer.print_header(config)
        try:
            with handle_signals(_SignalHandlers(session, printer).as_mapping()):
                state = run_session(
                    session, resume.state if resume else RunState(), printer.print_record
                )
        finally:
            printer.close()
    return ExitCode(state.ended.exit_code) if state.ended else ExitCode.FAILED


class _SignalHandlers:
    """Signals stop, pause or resume the run.

    The first stop signal stops the run with a checkpoint; a second one exits immediately. SIGUSR1 pauses
    the run after the current step, or resumes it. A launcher of several processes may pass on a signal that
    the terminal already sent to all of them: those count as one request.
    """

    def __init__(self, session: Session, printer: Printer) -> None:
        self._session = session
        self._printer = printer
        self._distributed = not process_info().is_single
        self._requested_at = 0.0

    def as_mapping(self) -> dict[signal.Signals, Callable[[], object]]:
        """The handler of each signal."""
        return {**dict.fromkeys(STOP_SIGNALS, self._stop), signal.SIGUSR1: self._pause_or_resume}

    def _pause_or_resume(self) -> None:
        if self._session.pause_requested:
            self._session.request_resume()
        else:
            self._session.request_pause()
            self._printer.print_message("Pausing after this step… (send SIGUSR1 again to resume)")

    def _stop(self) -> None:
        if not self._session.stop_requested:
            self._requested_at = time.monotonic()
            self._session.request_stop()
            self._printer.print_message(
                "Stopping: saving a checkpoint… (Ctrl-C again exits immediately)"
            )
            return
        if self._distributed and time.monotonic() - self._requested_at < SAME_REQUEST_S:
            return
        self._printer.close()
        self._printer.print_message(
            "Exited immediately. Earlier checkpoints are in the run directory."
        )
        # The trainer thread may be busy in a kernel: do not wait for it.
        os._exit(int(ExitCode.INTERRUPTED))
