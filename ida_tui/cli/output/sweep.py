"""Printed output of `ida-tui sweep`: run a sweep, print its table, stop it on Ctrl-C."""

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
from ida_tui.util.paths import display_path
from ida_tui.util.text import as_json, one_line


def carry_out(sweep: Sweep, *, json: bool) -> ExitCode:
    """Train the remaining runs of a sweep, then print its table.

    Args:
        sweep: the sweep, whose directory exists.
        json: print the table as JSON on stdout, and messages on stderr.

    Returns:
        0 if all runs are done, 1 if a run failed, 3 if the sweep paused because of the judge or the budget,
        130 if it was stopped.

    Raises:
        IdaError: another process is running the sweep, or its study cannot be used.
    """
    shown = display_path(sweep.path)
    if owner.is_alive(RunDirectory(sweep.path)):
        raise UsageError(
            f"another process is running the sweep {shown}",
            f"watch it with: ida-tui attach {shown}, or print its table: ida-tui sweep --show {shown}",
        )
    console = Console(highlight=False, soft_wrap=True, stderr=json)
    status = console.status("starting") if console.is_terminal else None
    with owner.owned_run(RunDirectory(sweep.path)):
        scheduler = Course(
            sweep,
            Queue(sweep),
            say=lambda line: console.print(styled(line)),
            tick=lambda results: _tick(status, results),
        )
        with _stopping_by_signal(scheduler, console):
            if status is not None:
                status.start()
            try:
                code = scheduler.to_the_end()
            finally:
                if status is not None:
                    status.stop()
        scheduler.keep_table()
    results = scheduler.table()
    _print(results, json=json)
    for line in _closing(scheduler, results, code):
        console.print(styled(line))
    return code


def show(sweep: Sweep, *, json: bool) -> ExitCode:
    """Print the current table of a sweep, whether it is running or not."""
    results = table(sweep, Reader(sweep).all())
    _print(results, json=json)
    if not json and any(not status.over for status in results.standings):
        if owner.is_alive(RunDirectory(sweep.path)):
            print("Another process is running this sweep.")
        else:
            print(f"No process is running this sweep. Resume it with: {_command(sweep)}")
    return ExitCode.DONE


def _print(results: Table, *, json: bool) -> None:
    if json:
        sys.stdout.write(as_json(words.as_values(results), indent=1) + "\n")
    else:
        print("", *map(one_line, words.lines(results)), sep="\n")
    sys.stdout.flush()


def _tick(status: Status | None, results: Table) -> None:
    if status is not None:
        status.update(Text(words.progress(results)))


def _closing(scheduler: Course, results: Table, code: ExitCode) -> list[str]:
    """The lines below the table."""
    total = len(results.standings)
    done = sum(status.stage == "done" for status in results.standings)
    failed = sum(status.over and status.stage != "done" for status in results.standings)
    open_runs = total - done - failed
    command = _command(scheduler.sweep)
    notes = (
        [f"! {failed} of {total} runs failed; resume a run with: ida-tui resume RUN"]
        if failed
        else []
    )
    if code is ExitCode.INTERRUPTED:
        return [*notes, f"! Stopped; {done} of {total} runs done. Resume with: {command}"]
    if code is ExitCode.JUDGE_UNAVAILABLE:
        budget_flag = " --budget DOLLARS" if scheduler.sweep.budget is not None else ""
        return [*notes, f"! Paused: {scheduler.paused}. Resume with: {command}{budget_flag}"]
    if open_runs:
        return [*notes, f"! {open_runs} of {total} runs are not finished. Resume with: {command}"]
    return notes or [f"✓ All {total} runs are done: {display_path(scheduler.sweep.path)}"]


def _command(sweep: Sweep) -> str:
    return f"ida-tui sweep --resume {display_path(sweep.path)}"


@contextmanager
def _stopping_by_signal(scheduler: Course, console: Console) -> Iterator[None]:
    """Inside the block, SIGINT, SIGTERM and SIGHUP stop the sweep: with checkpoints, then immediately."""

    def count_stop(number: int, frame: FrameType | None) -> None:
        scheduler.stops += 1
        if scheduler.stops == 1:
            # The handler may interrupt a print in progress, so write to the file descriptor directly.
            os.write(2, b"Stopping: active runs save checkpoints... (again to stop immediately)\n")

    previous = {
        number: signal.signal(number, count_stop)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
