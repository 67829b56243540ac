"""Training without the app (`ida-tui --run`): start a session, print its records, handle signals."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from ida_tui.api import run_session
from ida_tui.cli.output.printer import HumanPrinter, JsonPrinter, Printer
from ida_tui.config.schema import Config
from ida_tui.engine.distributed.environment import process_info
from ida_tui.engine.session import Session
from ida_tui.errors import ExitCode
from ida_tui.events.state import RunState
from ida_tui.runs.resume import ResumePoint

SAME_REQUEST_S = 3.0
"""Seconds within which signals passed on by a launcher count as one request."""


def train(
    config: Config,
    *,
    key: str | None,
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
    printer: Printer = JsonPrinter() if as_json else HumanPrinter()
    session = Session(config, key=key, argv=argv, resume=resume)
    printer.print_header(config)
    try:
        with _handle_signals(session, printer):
            state = run_session(
                session, resume.state if resume else RunState(), printer.print_record
            )
    finally:
        printer.close()
    return ExitCode(state.ended.exit_code) if state.ended else ExitCode.FAILED


@contextmanager
def _handle_signals(session: Session, printer: Printer) -> Iterator[None]:
    """Inside the block, signals stop, pause or resume the run.

    The first SIGINT, SIGTERM or SIGHUP (the terminal was closed) stops the run with a checkpoint; a second
    one exits immediately. SIGUSR1 pauses the run after the current step, or resumes it. If SIGHUP is ignored,
    as under nohup, it stays ignored. A launcher of several processes may pass on a signal that the terminal
    already sent to all of them: those count as one request.
    """

    def pause_or_resume(number: int, frame: FrameType | None) -> None:
        if session.pause_requested:
            session.request_resume()
        else:
            session.request_pause()
            printer.print_message("Pausing after this step… (send SIGUSR1 again to resume)")

    requested_at = 0.0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal requested_at
        already_requested = session.stop_requested
        if already_requested and distributed and time.monotonic() - requested_at < SAME_REQUEST_S:
            return
        requested_at = requested_at if already_requested else time.monotonic()
        if already_requested:
            printer.close()
            printer.print_message(
                "Exited immediately. Earlier checkpoints are in the run directory."
            )
            # The trainer thread may be busy in a kernel: do not wait for it.
            os._exit(int(ExitCode.INTERRUPTED))
        session.request_stop()
        printer.print_message("Stopping: saving a checkpoint… (Ctrl-C again exits immediately)")

    distributed = not process_info().is_single
    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGHUP: stop}
    previous = {
        number: signal.signal(number, handler)
        for number, handler in {**handlers, signal.SIGUSR1: pause_or_resume}.items()
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
