"""`ida-tui attach --lines`: print what another process trains, as it happens, or what one has trained."""

from __future__ import annotations

import time

from ida_tui.cli.output.printer import HumanPrinter, JsonPrinter, Printer
from ida_tui.errors import ExitCode, IdaError
from ida_tui.events.state import RunState, fold
from ida_tui.events.types import EventError
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import Follower
from ida_tui.runs.postmortem import likely_cause

INTERVAL_S = 0.2


def follow(directory: RunDirectory, *, as_json: bool) -> ExitCode:
    """Print a run from its beginning, and go on while it is trained; Ctrl-C leaves it alone.

    Args:
        directory: the run.
        as_json: events as JSON lines instead of lines for people.

    Returns:
        The run's own exit code; 1 where it died without one.

    Raises:
        IdaError: its events cannot be read.
    """
    printer: Printer = JsonPrinter() if as_json else HumanPrinter()
    follower, state = Follower(directory.events), RunState()
    try:
        while True:
            # Looked at before the file is read: what it wrote last is not missed.
            alive = owner.alive(directory)
            records = follower.read()
            for record in records:
                state = fold(state, record)
                printer.show(state, record)
            if state.ended is not None and not alive:
                return _code(state.ended.exit_code)
            if not alive and not records:
                printer.say(f"✗ it died without a word: {likely_cause(state)}")
                printer.say(f"  go on with it: ida-tui resume {directory.path}")
                return ExitCode.FAILED
            if not records:
                time.sleep(INTERVAL_S)
    except (EventError, OSError) as error:
        raise IdaError(f"the run cannot be read: {error}") from None
    finally:
        printer.close()


def _code(number: int) -> ExitCode:
    """The run's own exit code; a number that is none of ours means that it failed."""
    return ExitCode(number) if number in set(ExitCode) else ExitCode.FAILED
