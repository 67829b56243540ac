"""`ida-tui sweep`: carry a sweep out and print it, and turn Ctrl-C into a request to stop."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.status import Status
from rich.text import Text

from ida_tui.cli.output.printer import styled
from ida_tui.errors import ExitCode, UsageError
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.sweep import text as words
from ida_tui.sweep.directory import Sweep
from ida_tui.sweep.results import Table, table
from ida_tui.sweep.scheduler import Course
from ida_tui.sweep.status import Reader
from ida_tui.sweep.study import Queue
from ida_tui.util.paths import shown_path
from ida_tui.util.text import as_json, printable


def carry_out(sweep: Sweep, *, json: bool) -> ExitCode:
    """Run what is left of a sweep, then print its table.

    Args:
        sweep: it has a folder.
        json: the table as JSON on stdout, and the talk on stderr.

    Returns:
        Done; failed where a run failed; 3 where it paused for its judge or budget; 130 where it was stopped.

    Raises:
        IdaError: another process carries it out, or its study cannot be used.
    """
    shown = shown_path(sweep.path)
    if owner.alive(RunDirectory(sweep.path)):
        raise UsageError(
            f"{shown} is carried out now, by another process",
            f"how it stands: ida-tui sweep --show {shown}, or ida-tui attach {shown}",
        )
    console = Console(highlight=False, soft_wrap=True, stderr=json)
    status = console.status("starting") if console.is_terminal else None
    with owner.owned(RunDirectory(sweep.path)):
        course = Course(
            sweep,
            Queue(sweep),
            say=lambda line: console.print(styled(line)),
            tick=lambda found: _tick(status, found),
        )
        with _stopping_by_signal(course, console):
            if status is not None:
                status.start()
            try:
                code = course.to_the_end()
            finally:
                if status is not None:
                    status.stop()
        course.keep_table()
    found = course.table()
    _print(found, json=json)
    for line in _closing(course, found, code):
        console.print(styled(line))
    return code


def show(sweep: Sweep, *, json: bool) -> ExitCode:
    """Print the table of a sweep as it stands, carried out now or not."""
    found = table(sweep, Reader(sweep).all())
    _print(found, json=json)
    if not json and any(not one.over for one in found.standings):
        if owner.alive(RunDirectory(sweep.path)):
            print("It is carried out now, by another process.")
        else:
            print(f"Nobody carries it out now; go on with it: {_command(sweep)}")
    return ExitCode.DONE


def _print(found: Table, *, json: bool) -> None:
    if json:
        sys.stdout.write(as_json(words.as_values(found), indent=1) + "\n")
    else:
        print("", *map(printable, words.lines(found)), sep="\n")
    sys.stdout.flush()


def _tick(status: Status | None, found: Table) -> None:
    if status is not None:
        status.update(Text(words.progress(found)))


def _closing(course: Course, found: Table, code: ExitCode) -> list[str]:
    """What is to be said below the table."""
    of = len(found.standings)
    done = sum(one.stage == "done" for one in found.standings)
    bad = sum(one.over and one.stage != "done" for one in found.standings)
    left = of - done - bad
    on = _command(course.sweep)
    failed = [f"! {bad} of {of} runs failed; ida-tui resume RUN goes on with one"] if bad else []
    if code is ExitCode.INTERRUPTED:
        return [*failed, f"! Stopped, {done} of {of} runs done. Go on: {on}"]
    if code is ExitCode.JUDGE_UNAVAILABLE:
        more = " --budget DOLLARS" if course.sweep.budget is not None else ""
        return [*failed, f"! Paused: {course.paused}. Go on: {on}{more}"]
    if left:
        return [*failed, f"! {left} of {of} runs are not over. Go on: {on}"]
    return failed or [f"✓ All {of} runs are done: {shown_path(course.sweep.path)}"]


def _command(sweep: Sweep) -> str:
    return f"ida-tui sweep --resume {shown_path(sweep.path)}"


@contextmanager
def _stopping_by_signal(course: Course, console: Console) -> Iterator[None]:
    """Inside the block SIGINT, SIGTERM and SIGHUP stop the sweep: once with checkpoints, twice at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        course.stops += 1
        if course.stops == 1:
            # The handler may have come in the middle of a line: nothing but the file itself is used.
            os.write(2, b"Stopping: every run under way saves a checkpoint ... (again: at once)\n")

    kept = {
        number: signal.signal(number, handle)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
