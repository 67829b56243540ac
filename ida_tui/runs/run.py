"""A run read from disk: its state, status, resolved profile, evaluation and completions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Config
from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.events import types as ev
from ida_tui.events.state import Completion, RunState
from ida_tui.runs import owner
from ida_tui.runs.catalog.summary import RunStatus
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import read_events
from ida_tui.runs.log.replay import read_final_state
from ida_tui.runs.store import completions, evaluations, judge_costs
from ida_tui.runs.store.evaluations import Evaluation
from ida_tui.runs.weights import find_weights


@dataclass(frozen=True)
class Run:
    """A run on disk, as it was when it was read: live, finished or interrupted."""

    directory: Path
    """The run directory; `docs/reading-a-run.md` describes its files."""
    state: RunState
    """The state after its last event: everything that the app and the printed lines show."""
    status: RunStatus
    """`done`, `live`, `died`, `interrupted`, `failed`, `judge_unavailable`, …"""

    @property
    def name(self) -> str:
        """Experiment and run id, in the form that every command accepts."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def experiment(self) -> str:
        """The experiment, also if the run directory was moved."""
        return self.state.run.experiment if self.state.run else self.directory.parent.name

    @property
    def files(self) -> RunDirectory:
        """The paths of its files."""
        return RunDirectory(self.directory)

    @property
    def exit_code(self) -> ExitCode | None:
        """The exit code of the command that trained it; None if it has not ended."""
        return ExitCode(self.state.ended.exit_code) if self.state.ended else None

    @property
    def message(self) -> str:
        """How it ended, in one sentence; empty if it has not ended."""
        return self.state.ended.message if self.state.ended else ""

    @cached_property
    def judge_cost(self) -> ev.JudgeCost:
        """What the judge has cost, including the steps that a pause or a kill cut off."""
        recorded = judge_costs.recorded_cost(self.files)
        if recorded is not None:
            return recorded
        cost = self.state.ended.cost if self.state.ended is not None else self.state.judge.cost
        return ev.JudgeCost(cost or 0.0, unpriced=cost is None)

    @property
    def steps(self) -> Sequence[ev.StepFinished]:
        """The finished steps in order, with their metrics."""
        return tuple(self.state.steps)

    @property
    def reward_first(self) -> float | None:
        """Mean reward of the first scored steps, from 0 to 1; None if no step was scored."""
        return self.state.reward_first

    @property
    def reward_last(self) -> float | None:
        """Mean reward of the last scored steps, from 0 to 1; None if no step was scored."""
        return self.state.reward_last

    @classmethod
    def load(cls, directory: RunDirectory) -> Run:
        """Read a run, live or finished, without writing anything.

        Raises:
            UsageError: its events cannot be read.
        """
        state = read_final_state(directory)
        if state.ended is not None:
            status: RunStatus = state.ended.status
        else:
            status = "live" if owner.is_alive(directory) else "died"
        return cls(directory.path, state, status)

    @property
    def config(self) -> Config:
        """The resolved profile.

        Raises:
            UsageError: its `config.yaml` is missing or damaged.
        """
        if isinstance(self._config_or_error, UsageError):
            raise self._config_or_error
        return self._config_or_error

    @property
    def config_error(self) -> str:
        """Why the resolved profile cannot be read; empty if it can."""
        error = self._config_or_error
        return error.title if isinstance(error, UsageError) else ""

    @cached_property
    def _config_or_error(self) -> Config | UsageError:
        try:
            return resolve(str(self.files.config), verify=False).config
        except UsageError as error:
            return error

    @property
    def weights(self) -> Path | None:
        """Path of the trained weights, else of the newest complete checkpoint; None if there is neither."""
        try:
            return find_weights(self.files, self.config).path
        except UsageError:
            return None

    @cached_property
    def evaluation(self) -> Evaluation | None:
        """The newest judged evaluation of both models; None if there is none."""
        return evaluations.newest_evaluation(self.files)

    def completions(self, step: int | None = None) -> Iterator[Completion]:
        """The judged completions with their verdicts, read from disk step by step.

        Args:
            step: return only the completions of this step.

        Raises:
            UsageError: the completions cannot be read.
        """
        for completed_step, step_completions in completions.read_completions(self.files):
            if step in (None, completed_step):
                yield from step_completions

    def events(self) -> Iterator[ev.Record]:
        """Every record of the run, in order.

        Raises:
            EventError: a line is not an event.
            OSError: the file cannot be read.
        """
        return read_events(self.files.events)

    def raise_if_failed(self) -> Run:
        """Return this run if it is done or still running.

        Raises:
            IdaError: the run failed or died; has the run's own exit code and hint.
        """
        ended = self.state.ended
        if ended is not None and ended.exit_code:
            raise IdaError(ended.message, ended.hint, code=ExitCode(ended.exit_code))
        if self.status in ("died", "unreadable"):
            raise IdaError(f"the run {self.name} died", f"resume with: ida-tui resume {self.name}")
        return self
