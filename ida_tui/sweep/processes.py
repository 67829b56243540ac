"""The processes that run combinations: begun here, or by a sweep that was killed meanwhile.

Each holds a lock that the kernel keeps for as long as it lives. The sweep takes the lock and hands it down,
so that there is no moment in which a run that goes on without its sweep could be begun a second time.
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
from ida_tui.util.paths import shown_path

TAIL = 4000
"""Bytes of a log that are looked through for what went wrong."""


@dataclass(slots=True)
class Child:
    """Who runs a combination."""

    sweep: Sweep
    number: int
    process: subprocess.Popen[bytes] | None
    """None where this process did not begin it."""

    def over(self, run: Path | None) -> bool:
        """Whether nobody runs it any more.

        Args:
            run: the run's directory, if there is one.
        """
        if self.process is not None:
            return self.process.poll() is not None
        return not held(self.sweep, self.number) and not (run and owner.alive(RunDirectory(run)))

    def stop(self, run: Path | None) -> None:
        """Ask for a checkpoint and an end; of a process of ours a second time: for an end at once."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
        elif run is not None:
            with contextlib.suppress(OSError):
                control.ask(RunDirectory(run), "stop")


def begin(sweep: Sweep, number: int, run: Path | None, budget: float | None) -> Child:
    """Run a combination in a process of its own; one that is run by somebody is left to them.

    Args:
        sweep: the sweep.
        number: the combination.
        run: the run to go on with; None begins one.
        budget: US dollars that the judge of the run may cost, those of its past included.

    Raises:
        OSError: no process can be begun.
    """
    if run is not None and owner.alive(RunDirectory(run)):
        return Child(sweep, number, None)
    with open(sweep.lock(number), "a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return Child(sweep, number, None)
        except OSError:
            pass  # a file system without locks: a run's owner.json is what there is
        sweep.refusal(number).unlink(missing_ok=True)
        with open(sweep.log(number), "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ida_tui", *_arguments(sweep, number, run, budget)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C on the terminal reaches the sweep alone, which passes it on once.
                start_new_session=True,
                pass_fds=[lock.fileno()],
                env=os.environ,
            )
    return Child(sweep, number, process)


def held(sweep: Sweep, number: int) -> bool:
    """Whether a process holds a combination's lock. Only whoever holds the sweep's own lock may ask."""
    try:
        with open(sweep.lock(number), "a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def refused(sweep: Sweep, number: int, code: int) -> None:
    """Keep why a process ended before it had a run: what it said last, or how it ended."""
    try:
        with open(sweep.log(number), "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL))
            said = log.read().decode("utf-8", "replace").splitlines()
    except OSError:
        said = []
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    last = errors[-1] if errors else f"its process ended with {code}, and said nothing"
    with contextlib.suppress(OSError):
        sweep.refusal(number).write_text(json.dumps({"code": code, "said": last}) + "\n", "utf-8")


def exit_code(code: int) -> ExitCode:
    """A process's exit status as one of ours; a signal or a number of others is a failure."""
    return ExitCode(code) if code in set(ExitCode) else ExitCode.FAILED


def _arguments(sweep: Sweep, number: int, run: Path | None, budget: float | None) -> Sequence[str]:
    capped = [] if budget is None else [f"budget={budget:.6f}"]
    if run is not None:
        return ["resume", str(run), *capped]
    # Wherever the folder of all runs is now, seen from here.
    outputs = json.dumps(shown_path(sweep.outputs))
    return ["--run", str(sweep.config(number)), f"output_dir={outputs}", *capped]
