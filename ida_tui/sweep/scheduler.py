"""Scheduler of a sweep: start the remaining runs, wait for them and record their results."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Config
from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.runs.directory import RunDirectory
from ida_tui.sweep import budget as allowance
from ida_tui.sweep import processes as children
from ida_tui.sweep import text as words
from ida_tui.sweep.directory import Sweep
from ida_tui.sweep.grid import named
from ida_tui.sweep.processes import Child
from ida_tui.sweep.results import Table, table
from ida_tui.sweep.status import Reader, Standing
from ida_tui.sweep.study import Queue
from ida_tui.util.paths import display_path
from ida_tui.util.text import as_json

LOOK_S = 0.2
"""Seconds between two checks of the runs."""
Say = Callable[[str], None]


@dataclass(slots=True)
class Course:
    """Trains the remaining runs of a sweep. The caller must hold the lock of the sweep."""

    sweep: Sweep
    queue: Queue
    say: Say
    """Prints a line."""
    tick: Callable[[Table], None]
    """Called with the current table about every `LOOK_S` seconds."""
    stops: int = 0
    """Number of stop requests, incremented by a signal handler and forwarded to the active runs."""
    paused: str = ""
    """Why no more runs are started, if the judge or the budget is the reason; otherwise empty."""
    _reader: Reader = field(init=False)
    _active: dict[int, Child] = field(default_factory=dict)
    _caps: dict[int, float] = field(default_factory=dict)
    """Limits for the judge costs of the active runs, by number."""
    _again: list[int] = field(default_factory=list)
    """Combinations that an earlier sweep process started and that may not be finished."""
    _next: int | None = None
    """The next combination, if it is waiting for memory or a free slot."""
    _asked: dict[int, int] = field(default_factory=dict)
    """Number of stop requests sent to each active run."""

    def __post_init__(self) -> None:
        self._reader = Reader(self.sweep)

    def to_the_end(self) -> ExitCode:
        """Train the remaining runs; returns the exit code of the sweep."""
        self._again = self.queue.asked()
        while True:
            for child in list(self._active.values()):
                self._look(child)
            if self.stopping:
                self._pass_on()
            while not self.stopping and not self.paused and self._begin_one():
                pass
            if not self._active:
                break
            self.tick(self.table())
            time.sleep(LOOK_S)
        return self._code()

    @property
    def stopping(self) -> bool:
        """Whether a stop was requested, so that no more runs are started."""
        return self.stops > 0

    def _pass_on(self) -> None:
        """Forward stop requests: the first stops active runs with a checkpoint, the second immediately."""
        for number, child in self._active.items():
            run = self._reader.one(number).run
            # A run of an earlier sweep process is stopped through its run directory, once that exists.
            if self._asked.get(number, 0) < self.stops and (child.process or run):
                self._asked[number] = self._asked.get(number, 0) + 1
                child.stop(run)

    def table(self) -> Table:
        """The current table."""
        return table(self.sweep, self._reader.all())

    # -- starting runs ------------------------------------------------------------------------

    def _begin_one(self) -> bool:
        """Start the next run or record that it is finished; False if there is none, or no room for it."""
        if len(self._active) >= self.sweep.jobs:
            return False
        if self._next is None:
            self._next = self._again.pop(0) if self._again else self.queue.ask()
        number = self._next
        if number is None or not self._fits(number):
            return False
        trial = self._reader.one(number)
        if trial.over:
            self._told(trial, "(already finished)")
        elif not self._begin(trial):
            return False
        self._next = None
        return True

    def _begin(self, trial: Standing) -> bool:
        """Start the process of a run; False if no budget is left for it."""
        cost_limit = None
        if self.sweep.budget is not None and trial.stage != "live":
            config = self._config(trial)
            if config.judge.kind != "offline":
                cost_limit = self._cap(trial, config.budget)
                if cost_limit is None:
                    self.paused = f"the sweep's budget of ${self.sweep.budget:g} is spent"
                    return False
        try:
            child = children.begin(self.sweep, trial.number, trial.run, cost_limit)
        except OSError as error:
            raise IdaError(
                f"could not start {named(trial.values)}: {error.strerror or error}",
                f"resume with: ida-tui sweep --resume {display_path(self.sweep.path)}",
            ) from None
        self._active[trial.number] = child
        if child.process is None:
            cost_limit = self._own_cap(trial)
        if cost_limit is not None:
            self._caps[trial.number] = cost_limit
        if child.process is None:
            action = "still running from an interrupted sweep; waiting for it"
        elif trial.run is not None:
            action = f"{words.stage(trial)}: resuming"
        else:
            action = "starting"
        self.say(f"● {self._called(trial)} {action}")
        return True

    def _cap(self, trial: Standing, own: float | None) -> float | None:
        assert self.sweep.budget is not None
        standings = self._reader.all()
        to_begin = sum(not other.over for other in standings) - len(self._active)
        slots = min(self.sweep.jobs - len(self._active), to_begin)
        return allowance.cap(
            trial, standings, self._caps, budget=self.sweep.budget, slots=slots, own=own
        )

    def _own_cap(self, trial: Standing) -> float | None:
        """The cost limit of a run that an earlier sweep process started."""
        if trial.run is None:
            return None
        with contextlib.suppress(UsageError):
            return resolve(str(RunDirectory(trial.run).config), verify=False).config.budget
        return None

    def _config(self, trial: Standing) -> Config:
        return resolve(str(self.sweep.config(trial.number)), verify=False).config

    def _fits(self, number: int) -> bool:
        """Whether its planned memory fits beside that of the active runs."""
        if not self._active:
            return True
        planned = [self.sweep.combinations[n].planned for n in (number, *self._active)]
        known = [size for size in planned if size is not None]
        # A run with unknown memory needs is never run in parallel.
        return len(known) == len(planned) and sum(known) <= min(
            self.sweep.combinations[n].limit for n in (number, *self._active)
        )

    # -- finished runs ------------------------------------------------------------------------

    def _look(self, child: Child) -> None:
        number = child.number
        if not child.over(self._reader.one(number).run):
            return
        del self._active[number]
        cost_limit = self._caps.pop(number, None)
        code = child.process.returncode if child.process is not None else None
        trial = self._reader.one(number)
        if trial.stage == "waiting" and code is not None and code > 0:
            trial = self._without_a_run(trial, code)
        if trial.over:
            self._told(trial, "")
            return
        if child.process is None and trial.stage in ("waiting", "died") and not self.stopping:
            # It was started by an earlier sweep process and died too: start it again.
            self._again.insert(0, number)
            return
        self.say(f"‖ {self._called(trial)} {words.stage(trial)}")
        ended = trial.state.ended if trial.state is not None else None
        if trial.stage == "judge_unavailable" and ended is not None:
            self.paused = ended.message
            if cost_limit is not None:
                committed = allowance.spent(self._reader.all(), self._caps)
                self.paused += (
                    f" (the run's limit was ${cost_limit:.4f} of the sweep's ${self.sweep.budget:g}, of which"
                    f" ${committed:.4f} is spent or reserved)"
                )

    def _without_a_run(self, trial: Standing, code: int) -> Standing:
        """The status of a run whose process ended before the run started, such as for a missing API key."""
        if children.exit_code(code) is ExitCode.INTERRUPTED:
            return trial
        children.refused(self.sweep, trial.number, code)
        updated = self._reader.one(trial.number)
        if children.exit_code(code) is ExitCode.JUDGE_UNAVAILABLE:
            # Other runs would fail for the same reason: pause, and start this run again later.
            self.paused = updated.problem
            with contextlib.suppress(OSError):
                self.sweep.refusal(trial.number).unlink()
            return trial
        return updated

    def _told(self, trial: Standing, when: str) -> None:
        self.queue.tell(trial)
        mark = "✓" if trial.stage == "done" else "✗"
        self.say(" ".join(filter(None, (mark, self._called(trial), words.outcome(trial), when))))

    def _called(self, trial: Standing) -> str:
        """A label such as ``2/6 learning_rate=2e-3 seed=0``."""
        return f"{trial.number + 1}/{len(self.sweep.combinations)} {named(trial.values)}"

    def _code(self) -> ExitCode:
        standings = self._reader.all()
        if self.stopping and not all(trial.over for trial in standings):
            return ExitCode.INTERRUPTED
        if self.paused:
            return ExitCode.JUDGE_UNAVAILABLE
        return (
            ExitCode.DONE if all(trial.stage == "done" for trial in standings) else ExitCode.FAILED
        )

    def keep_table(self) -> None:
        """Save the table in the sweep directory; a write error is ignored, because it is only a copy."""
        temporary = self.sweep.table.with_name(f".{self.sweep.table.name}-{os.getpid()}")
        with contextlib.suppress(OSError):
            text = as_json(words.as_values(self.table()), indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")
            temporary.replace(self.sweep.table)
