"""`ida-tui --run`: start a session, print its records, turn Ctrl-C into a request to stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from ida_tui.api import follow
from ida_tui.cli.output.printer import HumanPrinter, JsonPrinter, Printer
from ida_tui.config.schema import Config
from ida_tui.engine.distributed.environment import place
from ida_tui.engine.session import Session
from ida_tui.errors import ExitCode
from ida_tui.events.state import RunState
from ida_tui.runs.resume import Resumption

ONE_REQUEST_S = 3.0
"""Signals within this time are one request, where a launcher passes them on."""


def run(
    config: Config,
    *,
    key: str | None,
    argv: Sequence[str],
    as_json: bool,
    resume: Resumption | None = None,
) -> ExitCode:
    """Run a profile to its end and print it.

    Args:
        config: the resolved profile.
        key: the judge's API key, where it needs one.
        argv: the command line as typed.
        as_json: events on stdout instead of lines for people.
        resume: the run to go on with; null starts a new one.

    Returns:
        The exit code of the run.

    Raises:
        IdaError: the run could not start.
    """
    printer: Printer = JsonPrinter() if as_json else HumanPrinter()
    session = Session(config, key=key, argv=argv, resume=resume)
    printer.opening(config)
    try:
        with _stopping_by_signal(session, printer):
            state = follow(session, resume.state if resume else RunState(), printer.show)
    finally:
        printer.close()
    return ExitCode(state.ended.exit_code) if state.ended else ExitCode.FAILED


@contextmanager
def _stopping_by_signal(session: Session, printer: Printer) -> Iterator[None]:
    """Inside the block signals ask the run for something.

    The first SIGINT, SIGTERM or SIGHUP (the terminal is gone) asks it to stop, a second one leaves; SIGUSR1
    pauses it after the step under way, or lets it go on. Under nohup, which ignores SIGHUP, that stays
    ignored. A launcher of several processes may pass on what the terminal has sent to all of them: that is
    one request.
    """

    def turn(number: int, frame: FrameType | None) -> None:
        if session.pausing:
            session.request_go_on()
        else:
            session.request_pause()
            printer.say("Pausing after the step under way … (SIGUSR1 again goes on)")

    asked_at = 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked_at
        again = session.stop_requested
        if again and several and time.monotonic() - asked_at < ONE_REQUEST_S:
            return
        asked_at = asked_at if again else time.monotonic()
        if again:
            printer.close()
            printer.say("Left at once; what was saved before is in the run directory.")
            # The trainer's thread may be deep inside a kernel: do not wait for it.
            os._exit(int(ExitCode.INTERRUPTED))
        session.request_stop()
        printer.say("Stopping: saving a checkpoint … (again to leave at once)")

    several = not place().alone
    handlers = {signal.SIGINT: handle, signal.SIGTERM: handle, signal.SIGHUP: handle}
    kept = {
        number: signal.signal(number, handler)
        for number, handler in {**handlers, signal.SIGUSR1: turn}.items()
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
