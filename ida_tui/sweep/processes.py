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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ida_tui.config.devices import guess_device
from ida_tui.errors import ExitCode
from ida_tui.runs import control, owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.sweep.directory import Sweep
from ida_tui.sweep.gpus import environment_for
from ida_tui.system.processors import SHARING_VARIABLE
from ida_tui.util.paths import display_path
from ida_tui.util.safe_files import open_appended, open_regular, write_text

LOG_TAIL_BYTES = 4000
"""Bytes at the end of a log that are searched for the error."""


class TrainingProcess(Protocol):
    """A process that trains a run of a sweep."""

    number: int
    """Number of the run."""

    @property
    def is_adopted(self) -> bool:
        """Whether an earlier sweep process started it."""

    @property
    def returncode(self) -> int | None:
        """Its exit status once it has ended; None if an earlier sweep process started it."""

    def has_ended(self, run: Path | None) -> bool:
        """Whether the process has ended.

        Args:
            run: the run directory, if there is one.
        """

    def stop(self, run: Path | None) -> bool:
        """Stop the run with a checkpoint, at a second call immediately; False if that is not possible yet."""


class Host(Protocol):
    """Where the runs of a sweep are trained."""

    def slots(self, jobs: int | None, uses_gpus: bool) -> int:
        """Maximum number of parallel runs.

        Args:
            jobs: the number given by the person, if any.
            uses_gpus: whether the runs may use GPUs.
        """

    def has_room(self, sweep: Sweep, number: int, active: Mapping[int, TrainingProcess]) -> bool:
        """Whether a run can start beside the active runs."""

    def start(
        self,
        sweep: Sweep,
        number: int,
        run: Path | None,
        budget: float | None,
        active: Mapping[int, TrainingProcess],
    ) -> TrainingProcess:
        """Start a process that trains a run, unless another process is already training it.

        Args:
            sweep: the sweep.
            number: number of the run.
            run: the run directory to resume; None starts a new run.
            budget: limit for the judge costs of the run in US dollars, including what it has already cost.
            active: the active runs.

        Raises:
            OSError: the process cannot be started.
        """

    def describe(self, process: TrainingProcess) -> str:
        """Where a run is trained, such as `on GPU 1`; empty if there is nothing to say."""

    def summary(self, uses_gpus: bool) -> str:
        """What the runs are trained on, for the lines before a sweep; empty if there is nothing to say."""


@dataclass(slots=True)
class SweepProcess:
    """A process on this machine."""

    sweep: Sweep
    number: int
    process: subprocess.Popen[bytes] | None
    """None if an earlier sweep process started it."""
    gpu: str | None = None
    """The GPU that it uses alone; None if it may use any."""

    @property
    def is_adopted(self) -> bool:
        """Whether an earlier sweep process started it."""
        return self.process is None

    @property
    def returncode(self) -> int | None:
        """Its exit status, if it has ended and this process started it."""
        return None if self.process is None else self.process.returncode

    def has_ended(self, run: Path | None) -> bool:
        """Whether the process has ended."""
        if self.process is not None:
            return self.process.poll() is not None
        return not is_locked(self.sweep, self.number) and not (
            run and owner.is_alive(RunDirectory(run))
        )

    def stop(self, run: Path | None) -> bool:
        """Stop the run: a child by a signal, any other process through its run directory."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
        elif run is not None:
            with contextlib.suppress(OSError):
                control.send_request(RunDirectory(run), "stop")
        return self.process is not None or run is not None


@dataclass(frozen=True, slots=True)
class LocalMachine:
    """This machine, with a GPU for each run if it has GPUs."""

    gpus: tuple[str, ...] = ()
    """The GPUs that runs may use, as `CUDA_VISIBLE_DEVICES` names them."""

    def slots(self, jobs: int | None, uses_gpus: bool) -> int:
        """The number given by the person, else one run on each GPU, else one run."""
        return jobs or (len(self.gpus) if uses_gpus else 0) or 1

    def has_room(self, sweep: Sweep, number: int, active: Mapping[int, TrainingProcess]) -> bool:
        """Whether its planned memory fits beside that of the active runs that use the same memory."""
        if len(active) >= self.slots(sweep.jobs, sweep.uses_gpus):
            return False
        gpu = self._choose_gpu(sweep, active)
        # Runs on other GPUs use other memory; a run that only could use a GPU counts for this machine's.
        shared = [
            n
            for n, process in active.items()
            if gpu is None or guess_device() != "cuda" or _gpu_of(process) == gpu
        ]
        if not shared:
            return True
        combinations = [sweep.combinations[n] for n in (number, *shared)]
        known = [item.planned for item in combinations if item.planned is not None]
        # A run with unknown memory needs is never run beside another.
        return len(known) == len(combinations) and sum(known) <= min(
            item.limit for item in combinations
        )

    def start(
        self,
        sweep: Sweep,
        number: int,
        run: Path | None,
        budget: float | None,
        active: Mapping[int, TrainingProcess],
    ) -> SweepProcess:
        """Start a process on the GPU with the fewest runs."""
        gpu = self._choose_gpu(sweep, active)
        slots = self.slots(sweep.jobs, sweep.uses_gpus)
        return start_process(sweep, number, run, budget, gpu=gpu, slots=slots)

    def describe(self, process: TrainingProcess) -> str:
        """The GPU of a run."""
        gpu = _gpu_of(process)
        return "" if gpu is None else f"on GPU {gpu}"

    def summary(self, uses_gpus: bool) -> str:
        """The GPUs."""
        return f"a GPU for each run: {', '.join(self.gpus)}" if self.gpus and uses_gpus else ""

    def _choose_gpu(self, sweep: Sweep, active: Mapping[int, TrainingProcess]) -> str | None:
        """The GPU with the fewest runs; None if the runs use none."""
        if not self.gpus or not sweep.uses_gpus:
            return None
        used = [_gpu_of(process) for process in active.values()]
        return min(self.gpus, key=used.count)


def _gpu_of(process: TrainingProcess) -> str | None:
    return process.gpu if isinstance(process, SweepProcess) else None


def start_process(
    sweep: Sweep,
    number: int,
    run: Path | None,
    budget: float | None,
    *,
    gpu: str | None = None,
    slots: int = 1,
) -> SweepProcess:
    """Start a process that trains a combination, unless another process is already training it.

    Args:
        sweep: the sweep.
        number: number of the combination.
        run: the run to resume; None starts a new run.
        budget: limit for the judge costs of the run in US dollars, including what it has already cost.
        gpu: the only GPU that the process may use; None for no restriction.
        slots: number of runs that share the processors of this machine.

    Raises:
        OSError: the process cannot be started.
    """
    if run is not None and owner.is_alive(RunDirectory(run)):
        return SweepProcess(sweep, number, None, _recorded_gpu(sweep, number))
    with open_appended(sweep.lock_file(number)) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return SweepProcess(sweep, number, None, _recorded_gpu(sweep, number))
        except OSError:
            pass  # the file system has no locks: rely on owner.json in the run directory
        # A sweep that is resumed while the run continues reads which GPU is in use.
        lock.truncate(0)
        lock.write((gpu or "").encode())
        lock.flush()
        sweep.failure_file(number).unlink(missing_ok=True)
        with open_appended(sweep.log_file(number)) as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ida_tui", *process_arguments(sweep, number, run, budget)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C on the terminal reaches only the sweep, which passes it on once.
                start_new_session=True,
                pass_fds=[lock.fileno()],
                env=os.environ | {SHARING_VARIABLE: str(slots)} | environment_for(gpu),
            )  # fmt: skip
    return SweepProcess(sweep, number, process, gpu)


def _recorded_gpu(sweep: Sweep, number: int) -> str | None:
    """The GPU of a process that an earlier sweep process started; None if it has none."""
    with contextlib.suppress(OSError, ValueError), open_regular(sweep.lock_file(number)) as lock:
        return lock.read(200).decode().strip() or None
    return None


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


def process_arguments(
    sweep: Sweep, number: int, run: Path | None, budget: float | None
) -> Sequence[str]:
    """The arguments of `ida-tui` that train or resume a run."""
    budget_arguments = [] if budget is None else [f"budget={budget:.6f}"]
    if run is not None:
        return ["resume", str(run), *budget_arguments]
    # The current location of the output folder, relative to the working directory.
    outputs = json.dumps(display_path(sweep.outputs))
    return ["--run", str(sweep.config_file(number)), f"output_dir={outputs}", *budget_arguments]
