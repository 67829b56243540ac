"""Processes that train the runs of a sweep, started by this process or by an earlier, killed sweep process.

Each process holds a file lock for as long as it lives. The sweep acquires the lock and passes it to the
process, so that a run that outlives its sweep process can never be started a second time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ida_tui.errors import ExitCode
from ida_tui.runs import control, owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.sweep.directory import Sweep
from ida_tui.system.processors import SHARING_VARIABLE
from ida_tui.util.paths import display_path
from ida_tui.util.safe_files import open_appended, open_regular, write_text

LOG_TAIL_BYTES = 4000
"""Bytes at the end of a log that are searched for the error."""


@dataclass(slots=True)
class SweepProcess:
    """The process that trains a combination."""

    sweep: Sweep
    number: int
    process: subprocess.Popen[bytes] | None
    """None if an earlier sweep process started it."""

    def has_ended(self, run: Path | None) -> bool:
        """Whether the process has ended.

        Args:
            run: the run directory, if there is one.
        """
        if self.process is not None:
            return self.process.poll() is not None
        return not is_locked(self.sweep, self.number) and not (
            run and owner.is_alive(RunDirectory(run))
        )

    def stop(self, run: Path | None) -> None:
        """Stop the run with a checkpoint; a second call stops a child process immediately."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
        elif run is not None:
            with contextlib.suppress(OSError):
                control.send_request(RunDirectory(run), "stop")


def start_process(
    sweep: Sweep, number: int, run: Path | None, budget: float | None
) -> SweepProcess:
    """Start a process that trains a combination, unless another process is already training it.

    Args:
        sweep: the sweep.
        number: number of the combination.
        run: the run to resume; None starts a new run.
        budget: limit for the judge costs of the run in US dollars, including what it has already cost.

    Raises:
        OSError: the process cannot be started.
    """
    if run is not None and owner.is_alive(RunDirectory(run)):
        return SweepProcess(sweep, number, None)
    with open_appended(sweep.lock_file(number)) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return SweepProcess(sweep, number, None)
        except OSError:
            pass  # the file system has no locks: rely on owner.json in the run directory
        sweep.failure_file(number).unlink(missing_ok=True)
        with open_appended(sweep.log_file(number)) as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "ida_tui",
                    *_process_arguments(sweep, number, run, budget),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C on the terminal reaches only the sweep, which passes it on once.
                start_new_session=True,
                pass_fds=[lock.fileno()],
                env=os.environ | {SHARING_VARIABLE: str(sweep.jobs)},
            )
    return SweepProcess(sweep, number, process)


def is_locked(sweep: Sweep, number: int) -> bool:
    """Whether a process holds the lock of a combination. The caller must hold the lock of the sweep."""
    try:
        with open_appended(sweep.lock_file(number)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def record_start_failure(sweep: Sweep, number: int, code: int) -> None:
    """Record why a process ended before its run started: its last error, or its exit code."""
    try:
        with open_regular(sweep.log_file(number)) as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            log_lines = log.read().decode("utf-8", "replace").splitlines()
    except OSError:
        log_lines = []
    errors = [line.removeprefix("error: ") for line in log_lines if line.startswith("error: ")]
    reason = errors[-1] if errors else f"the process exited with code {code} and printed no error"
    with contextlib.suppress(OSError):
        text = json.dumps({"code": code, "said": reason})
        write_text(sweep.failure_file(number), text + "\n")


def exit_code_for(code: int) -> ExitCode:
    """The exit code for a process status; FAILED for a signal or an unknown number."""
    return ExitCode(code) if code in set(ExitCode) else ExitCode.FAILED


def _process_arguments(
    sweep: Sweep, number: int, run: Path | None, budget: float | None
) -> Sequence[str]:
    budget_arguments = [] if budget is None else [f"budget={budget:.6f}"]
    if run is not None:
        return ["resume", str(run), *budget_arguments]
    # The current location of the output folder, relative to the working directory.
    outputs = json.dumps(display_path(sweep.outputs))
    return ["--run", str(sweep.config_file(number)), f"output_dir={outputs}", *budget_arguments]
