"""Scheduler of a sweep: it starts the remaining runs, waits for them and records their results."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Config
from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.runs.directory import RunDirectory
from ida_tui.sweep import budget, preflight, processes, text
from ida_tui.sweep.directory import Sweep
from ida_tui.sweep.grid import combination_label
from ida_tui.sweep.processes import Host, TrainingProcess
from ida_tui.sweep.queue import RunQueue
from ida_tui.sweep.results import SweepTable, build_table
from ida_tui.sweep.status import SweepReader, TrialStatus
from ida_tui.util.paths import display_path
from ida_tui.util.safe_files import write_text
from ida_tui.util.text import as_json

POLL_INTERVAL_S = 0.2
"""Seconds between two checks of the runs."""
PrintLine = Callable[[str], None]


@dataclass(slots=True)
class SweepScheduler:
    """Trains the remaining runs of a sweep. The caller must hold the lock of the sweep."""

    sweep: Sweep
    """The sweep; a search grows by a combination with each suggestion."""
    queue: RunQueue
    host: Host
    print_line: PrintLine
    """Prints a line."""
    on_update: Callable[[SweepTable], None]
    """Called with the current table about every `POLL_INTERVAL_S` seconds."""
    stop_requests: int = 0
    """Number of stop requests, incremented by a signal handler and forwarded to the active runs."""
    pause_reason: str = ""
    """Why no more runs are started, if the judge or the budget is the reason; otherwise empty."""
    _reader: SweepReader = field(init=False)
    _processes: dict[int, TrainingProcess] = field(default_factory=dict)
    _cost_limits: dict[int, float] = field(default_factory=dict)
    """Limits for the judge costs of the active runs, by number."""
    _restarts: list[int] = field(default_factory=list)
    """Runs that died with an earlier sweep process, to be started again."""
    _waiting: int | None = None
    """The next combination, if it is waiting for memory or a free slot."""
    _stops_sent: dict[int, int] = field(default_factory=dict)
    """Number of stop requests sent to each active run."""

    def __post_init__(self) -> None:
        self._reader = SweepReader(self.sweep)

    def run(self) -> ExitCode:
        """Train the remaining runs; returns the exit code of the sweep."""
        while True:
            for process in list(self._processes.values()):
                self._check_process(process)
            for process in self._processes.values():
                self._stop_if_worse(process)
            if self.stop_requested:
                self._forward_stop_requests()
            while not self.stop_requested and not self.pause_reason and self._start_next():
                pass
            if not self._processes:
                break
            self.on_update(self.current_table())
            time.sleep(POLL_INTERVAL_S)
        return self._exit_code()

    @property
    def stop_requested(self) -> bool:
        """Whether a stop was requested, so that no more runs are started."""
        return self.stop_requests > 0

    def _forward_stop_requests(self) -> None:
        """Forward stop requests: the first stops active runs with a checkpoint, the second immediately."""
        for number, process in self._processes.items():
            sent = self._stops_sent.get(number, 0)
            if sent < self.stop_requests and process.stop(self._reader.read_one(number).run):
                self._stops_sent[number] = sent + 1

    def _stop_if_worse(self, process: TrainingProcess) -> None:
        """Stop a run of a search whose reward is lower than that of most runs at the same step."""
        number = process.number
        trial = self._reader.read_one(number)
        if trial.stage != "live" or self._stops_sent.get(number, 0):
            return
        file = self.sweep.pruned_file(number)
        if not file.exists():
            if not self.queue.should_prune(trial):
                return
            # Written first: if this process is killed now, the run is stopped after a resume.
            write_text(
                file, json.dumps({"step": len(trial.state.steps) if trial.state else 0}) + "\n"
            )
        if process.stop(trial.run):
            self._stops_sent[number] = 1

    def current_table(self) -> SweepTable:
        """The current table."""
        return build_table(self.sweep, self._reader.read_all())

    @property
    def _slots(self) -> int:
        return self.host.slots(self.sweep.jobs, self.sweep.uses_gpus)

    # -- starting runs ------------------------------------------------------------------------

    def _start_next(self) -> bool:
        """Start the next run or record that it is finished; False if there is none, or no room for it."""
        if len(self._processes) >= self._slots:
            return False
        if self._waiting is None:
            self._waiting = self._restarts.pop(0) if self._restarts else self.queue.next()
        number = self._waiting
        if number is None:
            return False
        if number >= len(self.sweep.combinations):
            self.sweep = preflight.add_trial(self.sweep, number, self.queue.values(number))
            self._reader.sweep = self.sweep
        if not self.host.has_room(self.sweep, number, self._processes):
            return False
        trial = self._reader.read_one(number)
        if trial.is_finished:
            self._report_finished(trial, "" if trial.run is None else "(already finished)")
        elif not self._start_run(trial):
            return False
        self._waiting = None
        return True

    def _start_run(self, trial: TrialStatus) -> bool:
        """Start the process of a run; False if no budget is left for it."""
        cost_limit = None
        if self.sweep.budget is not None and trial.stage != "live":
            config = self._trial_config(trial)
            if config.judge.kind != "offline":
                cost_limit = self._new_cost_limit(trial, config.budget)
                if cost_limit is None:
                    self.pause_reason = f"the sweep's budget of ${self.sweep.budget:g} is spent"
                    return False
        try:
            process = self.host.start(
                self.sweep, trial.number, trial.run, cost_limit, self._processes
            )
        except OSError as error:
            raise IdaError(
                f"could not start {combination_label(trial.values)}: {error.strerror or error}",
                f"resume with: ida-tui sweep --resume {display_path(self.sweep.path)}",
            ) from None
        self._processes[trial.number] = process
        if process.is_adopted:
            cost_limit = self._existing_cost_limit(trial)
        if cost_limit is not None:
            self._cost_limits[trial.number] = cost_limit
        if process.is_adopted:
            action = "still running from an interrupted sweep; waiting for it"
        elif trial.run is not None:
            action = f"{text.stage_text(trial)}: resuming"
        else:
            action = "starting"
        place = self.host.describe(process)
        self.print_line(f"● {self._trial_label(trial)} {action}{place and ' '}{place}")
        return True

    def _new_cost_limit(self, trial: TrialStatus, run_budget: float | None) -> float | None:
        assert self.sweep.budget is not None
        trials = self._reader.read_all()
        finished = sum(other.is_finished for other in trials)
        waiting = self.sweep.total_runs - finished - len(self._processes)
        slots = min(self._slots - len(self._processes), waiting)
        return budget.run_cost_limit(
            trial,
            trials,
            self._cost_limits,
            budget=self.sweep.budget,
            slots=slots,
            run_budget=run_budget,
        )

    def _existing_cost_limit(self, trial: TrialStatus) -> float | None:
        """The cost limit of a run that an earlier sweep process started."""
        if trial.run is None:
            return None
        with contextlib.suppress(UsageError):
            return resolve(str(RunDirectory(trial.run).config), verify=False).config.budget
        return None

    def _trial_config(self, trial: TrialStatus) -> Config:
        return resolve(str(self.sweep.config_file(trial.number)), verify=False).config

    # -- finished runs ------------------------------------------------------------------------

    def _check_process(self, process: TrainingProcess) -> None:
        number = process.number
        if not process.has_ended(self._reader.read_one(number).run):
            return
        del self._processes[number]
        cost_limit = self._cost_limits.pop(number, None)
        self._stops_sent.pop(number, None)
        code = process.returncode
        trial = self._reader.read_one(number)
        if trial.stage == "waiting" and code is not None and code > 0:
            trial = self._status_without_run(trial, code)
        if trial.is_finished:
            self._report_finished(trial, "")
            return
        if process.is_adopted and trial.stage in ("waiting", "died") and not self.stop_requested:
            # It was started by an earlier sweep process and died too: start it again.
            self._restarts.append(number)
            return
        self.print_line(f"‖ {self._trial_label(trial)} {text.stage_text(trial)}")
        ended = trial.state.ended if trial.state is not None else None
        if trial.stage == "judge_unavailable" and ended is not None:
            self.pause_reason = ended.message
            if cost_limit is not None:
                committed = budget.committed_cost(self._reader.read_all(), self._cost_limits)
                self.pause_reason += (
                    f" (the run's limit was ${cost_limit:.4f} of the sweep's ${self.sweep.budget:g}, of which"
                    f" ${committed:.4f} is spent or reserved)"
                )

    def _status_without_run(self, trial: TrialStatus, code: int) -> TrialStatus:
        """The status of a run whose process ended before the run started, such as for a missing API key."""
        if processes.exit_code_for(code) is ExitCode.INTERRUPTED:
            return trial
        processes.record_start_failure(self.sweep, trial.number, code)
        updated = self._reader.read_one(trial.number)
        if processes.exit_code_for(code) is ExitCode.JUDGE_UNAVAILABLE:
            # Other runs would fail for the same reason: pause, and start this run again later.
            self.pause_reason = updated.problem
            with contextlib.suppress(OSError):
                self.sweep.failure_file(trial.number).unlink()
            return trial
        return updated

    def _report_finished(self, trial: TrialStatus, note: str) -> None:
        self.queue.finish(trial)
        mark = text.stage_mark(trial)
        self.print_line(
            " ".join(filter(None, (mark, self._trial_label(trial), text.outcome_text(trial), note)))
        )

    def _trial_label(self, trial: TrialStatus) -> str:
        """A label such as `2/6 learning_rate=2e-3 seed=0`."""
        return f"{trial.number + 1}/{self.sweep.total_runs} {combination_label(trial.values)}"

    def _exit_code(self) -> ExitCode:
        trials = self._reader.read_all()
        finished = sum(trial.is_finished for trial in trials)
        if self.stop_requested and finished < self.sweep.total_runs:
            return ExitCode.INTERRUPTED
        if self.pause_reason:
            return ExitCode.JUDGE_UNAVAILABLE
        succeeded = sum(trial.stage in ("done", "pruned") for trial in trials)
        return ExitCode.DONE if succeeded == self.sweep.total_runs else ExitCode.FAILED

    def save_table(self) -> None:
        """Save the table in the sweep directory; a write error is ignored, because it is only a copy."""
        with contextlib.suppress(OSError):
            table = as_json(text.sweep_as_json(self.current_table()), indent=1)
            write_text(self.sweep.table_file, table + "\n")
