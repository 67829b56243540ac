"""Printer of `ida-tui attach --lines`: follow a live run of another process, or print a finished run."""

from __future__ import annotations

import time

from ida_tui.cli.output.printer import HumanPrinter, JsonPrinter, Printer
from ida_tui.errors import ExitCode, IdaError
from ida_tui.events.codec import EventError
from ida_tui.events.state import RunState, fold
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import Follower
from ida_tui.runs.postmortem import likely_cause

POLL_INTERVAL_S = 0.2


def follow_run(directory: RunDirectory, *, as_json: bool, resumed_with: str = "") -> ExitCode:
    """Print a run from its start and follow it until it ends; Ctrl-C does not stop the run.

    Args:
        directory: the run.
        as_json: print events as JSON lines instead of lines for people.
        resumed_with: the command that resumes a run of another machine; empty for one of this machine.

    Returns:
        The run's own exit code; 1 if it died without one.

    Raises:
        IdaError: the events of the run cannot be read.
    """
    printer: Printer = JsonPrinter() if as_json else HumanPrinter()
    follower, state = Follower(directory.events), RunState()
    try:
        while True:
            # Checked before the file is read, so that the last records of the run are not missed.
            alive = owner.is_alive(directory)
            records = follower.read()
            for record in records:
                state = fold(state, record)
                printer.print_record(state, record)
            if state.ended is not None and not alive:
                return _exit_code(state.ended.exit_code)
            if not alive and not records:
                printer.print_message(f"✗ the run died: {likely_cause(state)}")
                command = resumed_with or f"ida-tui resume {directory.path}"
                printer.print_message(f"  resume with: {command}")
                return ExitCode.FAILED
            if not records:
                time.sleep(POLL_INTERVAL_S)
    except (EventError, OSError) as error:
        raise IdaError(f"could not read the run: {error}") from None
    finally:
        printer.close()


def _exit_code(number: int) -> ExitCode:
    """The exit code for a recorded number; FAILED for an unknown number."""
    return ExitCode(number) if number in set(ExitCode) else ExitCode.FAILED
