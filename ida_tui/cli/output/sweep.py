"""Printed output of `ida-tui sweep`: run a sweep, print its table, stop it on Ctrl-C."""

from __future__ import annotations

import sys
from typing import TextIO

from rich.console import Console
from rich.status import Status
from rich.text import Text

from ida_tui.cli.output.printer import styled_line
from ida_tui.errors import ExitCode, UsageError
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.sweep import text
from ida_tui.sweep.directory import Sweep
from ida_tui.sweep.processes import Host
from ida_tui.sweep.queue import GridQueue
from ida_tui.sweep.results import SweepTable, build_table
from ida_tui.sweep.scheduler import SweepScheduler
from ida_tui.sweep.status import SweepReader
from ida_tui.sweep.study import StudyQueue
from ida_tui.system.signals import STOP_SIGNALS, handle_signals
from ida_tui.util.paths import display_path
from ida_tui.util.text import as_json, one_line


def run_sweep(sweep: Sweep, host: Host, *, json: bool) -> ExitCode:
    """Train the remaining runs of a sweep, then print its table.

    Args:
        sweep: the sweep, whose directory exists.
        host: where the runs are trained.
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
    console, messages = Console(highlight=False, soft_wrap=True, stderr=json), sys.stderr
    status = console.status("starting") if console.is_terminal else None
    with owner.owned_run(RunDirectory(sweep.path)):
        scheduler = SweepScheduler(
            sweep,
            GridQueue(sweep) if sweep.trials is None else StudyQueue(sweep),
            host,
            print_line=lambda line: console.print(styled_line(line)),
            on_update=lambda results: _update_status(status, results),
        )
        with handle_signals(
            dict.fromkeys(STOP_SIGNALS, lambda: _request_stop(scheduler, messages))
        ):
            if status is not None:
                status.start()
            try:
                code = scheduler.run()
            finally:
                if status is not None:
                    status.stop()
        scheduler.save_table()
    results = scheduler.current_table()
    _print_table(results, json=json)
    for line in _closing_lines(scheduler, results, code):
        console.print(styled_line(line))
    return code


def show_sweep(sweep: Sweep, *, json: bool) -> ExitCode:
    """Print the current table of a sweep, whether it is running or not."""
    results = build_table(sweep, SweepReader(sweep).read_all())
    _print_table(results, json=json)
    finished = sum(status.is_finished for status in results.trials)
    if not json and finished < sweep.total_runs:
        if owner.is_alive(RunDirectory(sweep.path)):
            print("Another process is running this sweep.")
        else:
            print(f"No process is running this sweep. Resume it with: {_resume_command(sweep)}")
    return ExitCode.DONE


def _print_table(results: SweepTable, *, json: bool) -> None:
    if json:
        sys.stdout.write(as_json(text.sweep_as_json(results), indent=1) + "\n")
    else:
        print("", *map(one_line, text.sweep_lines(results)), sep="\n")
    sys.stdout.flush()


def _update_status(status: Status | None, results: SweepTable) -> None:
    if status is not None:
        status.update(Text(text.progress_line(results)))


def _closing_lines(scheduler: SweepScheduler, results: SweepTable, code: ExitCode) -> list[str]:
    """The lines below the table."""
    total = scheduler.sweep.total_runs
    done = sum(status.stage == "done" for status in results.trials)
    pruned = sum(status.stage == "pruned" for status in results.trials)
    failed = sum(status.is_finished for status in results.trials) - done - pruned
    open_runs = total - done - pruned - failed
    command = _resume_command(scheduler.sweep)
    notes = (
        [f"! {failed} of {total} runs failed; resume a run with: ida-tui resume RUN"]
        if failed
        else []
    )
    if code is ExitCode.INTERRUPTED:
        return [*notes, f"! Stopped; {done} of {total} runs done. Resume with: {command}"]
    if code is ExitCode.JUDGE_UNAVAILABLE:
        budget_flag = " --budget DOLLARS" if scheduler.sweep.budget is not None else ""
        return [*notes, f"! Paused: {scheduler.pause_reason}. Resume with: {command}{budget_flag}"]
    if open_runs:
        return [*notes, f"! {open_runs} of {total} runs are not finished. Resume with: {command}"]
    stopped = f", {pruned} of them stopped for their reward" if pruned else ""
    return notes or [f"✓ All {total} runs are done{stopped}: {display_path(scheduler.sweep.path)}"]


def _resume_command(sweep: Sweep) -> str:
    return f"ida-tui sweep --resume {display_path(sweep.path)}"


def _request_stop(scheduler: SweepScheduler, messages: TextIO) -> None:
    """Stop the sweep: the first request saves checkpoints, the second stops immediately."""
    scheduler.stop_requests += 1
    if scheduler.stop_requests == 1:
        # The handler may interrupt a print in progress, so it does not use the console.
        messages.write("Stopping: active runs save checkpoints… (again to stop immediately)\n")
