"""A sweep from where it stands to its end: begin runs, wait for them, write down what they were worth."""

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
from ida_tui.util.paths import shown_path
from ida_tui.util.text import as_json

LOOK_S = 0.2
"""How often the runs are looked at."""
Say = Callable[[str], None]


@dataclass(slots=True)
class Course:
    """Carries a sweep out. Only whoever holds the sweep's lock may."""

    sweep: Sweep
    queue: Queue
    say: Say
    """Prints a line."""
    tick: Callable[[Table], None]
    """Is called with the table as it stands, about every `LOOK_S` seconds."""
    stops: int = 0
    """How often it was asked to stop; a signal handler counts it up, and the course passes it on."""
    paused: str = ""
    """Why no run is begun any more, where the judge or the money is the reason."""
    _reader: Reader = field(init=False)
    _active: dict[int, Child] = field(default_factory=dict)
    _caps: dict[int, float] = field(default_factory=dict)
    """What the judges of the runs under way may cost, by their number."""
    _again: list[int] = field(default_factory=list)
    """Asked for before, and perhaps not over."""
    _next: int | None = None
    """Asked for, and waiting for room."""
    _asked: dict[int, int] = field(default_factory=dict)
    """How often each run under way was asked to stop."""

    def __post_init__(self) -> None:
        self._reader = Reader(self.sweep)

    def to_the_end(self) -> ExitCode:
        """Run what is left; the sweep's exit code."""
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
        """Whether no run is begun any more, because somebody asked it to stop."""
        return self.stops > 0

    def _pass_on(self) -> None:
        """Ask the runs under way for a checkpoint and an end; a second time: for an end at once."""
        for number, child in self._active.items():
            run = self._reader.one(number).run
            # One that somebody else began is asked through its directory, once there is one.
            if self._asked.get(number, 0) < self.stops and (child.process or run):
                self._asked[number] = self._asked.get(number, 0) + 1
                child.stop(run)

    def table(self) -> Table:
        """How it stands now."""
        return table(self.sweep, self._reader.all())

    # -- beginning ----------------------------------------------------------------------------

    def _begin_one(self) -> bool:
        """Begin the next run, or find that it is over; False where there is none, or no room."""
        if len(self._active) >= self.sweep.jobs:
            return False
        if self._next is None:
            self._next = self._again.pop(0) if self._again else self.queue.ask()
        number = self._next
        if number is None or not self._fits(number):
            return False
        one = self._reader.one(number)
        if one.over:
            self._told(one, "was over before")
        elif not self._begin(one):
            return False
        self._next = None
        return True

    def _begin(self, one: Standing) -> bool:
        """Give a run a process; False where there is no money for it."""
        cap = None
        if self.sweep.budget is not None and one.stage != "live":
            config = self._config(one)
            if config.judge.kind != "offline":
                cap = self._cap(one, config.budget)
                if cap is None:
                    self.paused = f"the sweep's budget of ${self.sweep.budget:g} is spent"
                    return False
        try:
            child = children.begin(self.sweep, one.number, one.run, cap)
        except OSError as error:
            raise IdaError(
                f"{named(one.values)} cannot be begun: {error.strerror or error}",
                f"then go on: ida-tui sweep --resume {shown_path(self.sweep.path)}",
            ) from None
        self._active[one.number] = child
        if child.process is None:
            cap = self._own_cap(one)
        if cap is not None:
            self._caps[one.number] = cap
        if child.process is None:
            how = "goes on by itself since its sweep was cut off; waiting for it"
        elif one.run is not None:
            how = f"{words.stage(one)}: going on"
        else:
            how = "begins"
        self.say(f"● {self._called(one)} {how}")
        return True

    def _cap(self, one: Standing, own: float | None) -> float | None:
        assert self.sweep.budget is not None
        standings = self._reader.all()
        to_begin = sum(not other.over for other in standings) - len(self._active)
        slots = min(self.sweep.jobs - len(self._active), to_begin)
        return allowance.cap(
            one, standings, self._caps, budget=self.sweep.budget, slots=slots, own=own
        )

    def _own_cap(self, one: Standing) -> float | None:
        """What a run that somebody else began may cost."""
        if one.run is None:
            return None
        with contextlib.suppress(UsageError):
            return resolve(str(RunDirectory(one.run).config), verify=False).config.budget
        return None

    def _config(self, one: Standing) -> Config:
        return resolve(str(self.sweep.config(one.number)), verify=False).config

    def _fits(self, number: int) -> bool:
        """Whether its plan fits beside those of the runs under way."""
        if not self._active:
            return True
        planned = [self.sweep.combinations[n].planned for n in (number, *self._active)]
        known = [size for size in planned if size is not None]
        # Nobody knows what fits beside a run whose need is not known.
        return len(known) == len(planned) and sum(known) <= min(
            self.sweep.combinations[n].limit for n in (number, *self._active)
        )

    # -- ending -------------------------------------------------------------------------------

    def _look(self, child: Child) -> None:
        number = child.number
        if not child.over(self._reader.one(number).run):
            return
        del self._active[number]
        cap = self._caps.pop(number, None)
        code = child.process.returncode if child.process is not None else None
        one = self._reader.one(number)
        if one.stage == "waiting" and code is not None and code > 0:
            one = self._without_a_run(one, code)
        if one.over:
            self._told(one, "")
            return
        if child.process is None and one.stage in ("waiting", "died") and not self.stopping:
            # It was begun by a sweep that is gone, and went the same way.
            self._again.insert(0, number)
            return
        self.say(f"‖ {self._called(one)} {words.stage(one)}")
        ended = one.state.ended if one.state is not None else None
        if one.stage == "judge_unavailable" and ended is not None:
            self.paused = ended.message
            if cap is not None:
                gone = allowance.spent(self._reader.all(), self._caps)
                self.paused += (
                    f" (it had ${cap:.4f} of the sweep's ${self.sweep.budget:g}, of which"
                    f" ${gone:.4f} is spent or set aside)"
                )

    def _without_a_run(self, one: Standing, code: int) -> Standing:
        """Its process ended before it had a run: that is its end, or the judge's key is missing."""
        if children.exit_code(code) is ExitCode.INTERRUPTED:
            return one
        children.refused(self.sweep, one.number, code)
        found = self._reader.one(one.number)
        if children.exit_code(code) is ExitCode.JUDGE_UNAVAILABLE:
            # Another run would meet the same; this one is begun again.
            self.paused = found.problem
            with contextlib.suppress(OSError):
                self.sweep.refusal(one.number).unlink()
            return one
        return found

    def _told(self, one: Standing, when: str) -> None:
        self.queue.tell(one)
        mark = "✓" if one.stage == "done" else "✗"
        self.say(" ".join(filter(None, (mark, self._called(one), words.outcome(one), when))))

    def _called(self, one: Standing) -> str:
        """Such as ``2/6 learning_rate=2e-3 seed=0``."""
        return f"{one.number + 1}/{len(self.sweep.combinations)} {named(one.values)}"

    def _code(self) -> ExitCode:
        standings = self._reader.all()
        if self.stopping and not all(one.over for one in standings):
            return ExitCode.INTERRUPTED
        if self.paused:
            return ExitCode.JUDGE_UNAVAILABLE
        return ExitCode.DONE if all(one.stage == "done" for one in standings) else ExitCode.FAILED

    def keep_table(self) -> None:
        """Write the table down beside the sweep; a disk that refuses it costs nothing but the copy."""
        beside = self.sweep.table.with_name(f".{self.sweep.table.name}-{os.getpid()}")
        with contextlib.suppress(OSError):
            text = as_json(words.as_values(self.table()), indent=1)
            beside.write_text(text + "\n", encoding="utf-8")
            beside.replace(self.sweep.table)
