"""Optuna study of a search: it suggests the values of the next run, and stops runs with a low reward.

A run is a trial with the same number. The study is one SQLite file in the sweep directory, which survives
`kill -9` and opens in optuna-dashboard. A trial without a result is running, or was running when an earlier
sweep process was killed. The values of a trial depend only on the seed, its number and the results so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ida_tui.config.resolve import resolve
from ida_tui.errors import IdaError, UsageError
from ida_tui.events.state import RunState, last_window
from ida_tui.sweep.directory import Sweep
from ida_tui.sweep.ranges import ValueRange
from ida_tui.sweep.status import TrialStatus
from ida_tui.util.paths import display_path

if TYPE_CHECKING:
    from optuna.samplers import TPESampler
    from optuna.trial import FrozenTrial, Trial

STUDY_NAME = "sweep"
STARTUP_TRIALS = 5
"""Trials with random values, and finished trials before the first one is stopped for its reward."""
PRUNING_START = 0.25
"""Fraction of its steps that a run trains before it can be stopped for its reward."""


def require_optuna() -> None:
    """Check that Optuna is installed.

    Raises:
        UsageError: Optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise UsageError(
            "a search needs optuna, which is not installed",
            "uv sync --extra sweep   or   pip install 'ida-tui[sweep]'",
        )


class StudyQueue:
    """The runs of a search.

    Args:
        sweep: the search; if it has no study, one is created from its combinations.

    Raises:
        IdaError: the study cannot be used.
    """

    def __init__(self, sweep: Sweep) -> None:
        require_optuna()
        import optuna
        from optuna.storages import RDBStorage
        from optuna.trial import TrialState
        from sqlalchemy import URL

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sweep = sweep
        self._states = TrialState
        self._seed = resolve(str(sweep.base_config_file), verify=False).config.seed
        self._reported: dict[int, int] = {}
        """Last step of each trial whose reward is in the study."""
        with self._study_errors():
            address = URL.create("sqlite", database=str(sweep.study_file))
            self._storage = RDBStorage(address.render_as_string())
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=STUDY_NAME,
                direction="maximize",  # the reward of the last steps
                load_if_exists=True,
            )
            # If the study was deleted, suggest the same values again, in the same order.
            existing = len(self._trials())
            for combination in sweep.combinations[existing:]:
                values = {
                    key: float(value) if key in sweep.ranges else value
                    for key, value in combination.values.items()
                }
                self._study.enqueue_trial(values)
            running = [trial for trial in self._trials() if trial.state is TrialState.RUNNING]
        self._unfinished = [trial.number for trial in running]

    def next(self) -> int | None:
        """The next run: one that has no result yet, or a new one; None if all runs were suggested."""
        from optuna.samplers import RandomSampler

        if self._unfinished:
            return self._unfinished.pop(0)
        with self._study_errors():
            trials = self._trials()
            is_queued = any(trial.state is self._states.WAITING for trial in trials)
            if not is_queued and len(trials) >= self._sweep.total_runs:
                return None
            # `values` samples; asking only numbers the trial.
            self._study.sampler = RandomSampler(seed=0)
            number = self._study.ask().number
            if is_queued:
                self.values(number)  # records the queued values
            return number

    def values(self, number: int) -> Mapping[str, str]:
        """The suggested values of a run: dotted key → value as typed."""
        sweep, values = self._sweep, {}
        with self._study_errors():
            # A new sampler for each trial: one that continued its random numbers would repeat them after a
            # resume.
            self._study.sampler = _sampler(self._seed, number, sweep.ranges)
            trial = self._trial(number)
            for key, choices in sweep.keys.items():
                found = sweep.ranges.get(key)
                if found is None:
                    values[key] = trial.suggest_categorical(key, choices)
                elif found.is_integer:
                    low, high = int(found.low), int(found.high)
                    values[key] = found.format(trial.suggest_int(key, low, high, log=found.is_log))
                else:
                    number_value = trial.suggest_float(key, found.low, found.high, log=found.is_log)
                    values[key] = found.format(number_value)
        return values

    def should_prune(self, trial: TrialStatus) -> bool:
        """Record the rewards of a live run; whether its best is below the median of the finished runs.

        The reward at a step is the mean of the newest steps, as in the table. Runs are compared at the same
        step.
        """
        if trial.state is None or trial.state.run is None:
            return False
        from optuna.pruners import MedianPruner

        with self._study_errors():
            optuna_trial = self._record_rewards(trial.number, trial.state)
            if optuna_trial is None:
                return False
            self._study.pruner = MedianPruner(STARTUP_TRIALS)
            return optuna_trial.should_prune()

    def finish(self, trial: TrialStatus) -> None:
        """Record the result of a finished run; later calls for it do nothing."""
        with self._study_errors():
            if self._trials()[trial.number].state.is_finished():
                return
            if trial.state is not None:
                self._record_rewards(trial.number, trial.state)
            if trial.stage == "done" and trial.reward is not None:
                self._study.tell(trial.number, trial.reward)
            elif trial.stage == "pruned":
                self._study.tell(trial.number, state=self._states.PRUNED)
            else:
                self._study.tell(trial.number, state=self._states.FAIL)

    def _record_rewards(self, number: int, state: RunState) -> Trial | None:
        """Record the rewards of new steps; the trial if there were any."""
        if number not in self._reported:
            recorded = self._trials()[number].intermediate_values
            self._reported[number] = max(recorded, default=0)
        new = [(s, r) for s, r in running_rewards(state) if s > self._reported[number]]
        if not new:
            return None
        trial = self._trial(number)
        for step, reward in new:
            trial.report(reward, step)
        self._reported[number] = new[-1][0]
        return trial

    def _trial(self, number: int) -> Trial:
        """A trial, with the values that it has; a missing value is sampled when it is asked for."""
        from optuna.trial import Trial

        study_id = self._storage.get_study_id_from_name(STUDY_NAME)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        return Trial(self._study, trial_id)

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    @contextmanager
    def _study_errors(self) -> Iterator[None]:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, ValueError, KeyError, IndexError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise IdaError(
                f"the Optuna study of the sweep cannot be used: {reason}",
                f"delete {display_path(self._sweep.study_file)}; it is rebuilt from the runs",
            ) from error


def running_rewards(state: RunState) -> list[tuple[int, float]]:
    """Each scored step, with the mean reward of the newest scored steps up to it, as many as the last ones.

    The first steps are left out: Optuna compares the best value of a run so far, which would often be that
    of a few early steps.
    """
    steps = state.run.steps or 0 if state.run else 0
    window = max(1, last_window(steps))
    rewards = zip(state.steps.column("step"), state.steps.column("reward"), strict=True)
    scored = [(int(step), reward) for step, reward in rewards if step and reward is not None]
    return [
        (step, fmean(reward for _, reward in scored[end - window : end]))
        for end, (step, _) in enumerate(scored, start=1)
        if end >= window and step >= PRUNING_START * steps
    ]


def _sampler(seed: int, number: int, ranges: Mapping[str, ValueRange]) -> TPESampler:
    """A sampler for one trial: random for the first trials, then a tree-structured Parzen estimator."""
    from numpy.random import SeedSequence

    trial_seed = int(SeedSequence((seed, number)).generate_state(1)[0])
    sampler: TPESampler = _rounding_sampler()(
        ranges, n_startup_trials=STARTUP_TRIALS, seed=trial_seed
    )
    return sampler


@cache
def _rounding_sampler() -> type[Any]:
    """A TPE sampler whose numbers have few digits, so that the study has what the runs are trained with."""
    from optuna.samplers import TPESampler

    class RoundingSampler(TPESampler):
        def __init__(self, ranges: Mapping[str, ValueRange], **options: Any) -> None:
            super().__init__(**options)
            self._ranges = ranges

        def sample_relative(self, *arguments: Any) -> dict[str, Any]:
            sampled = super().sample_relative(*arguments)
            return {key: self._rounded(key, value) for key, value in sampled.items()}

        def sample_independent(self, study: Any, trial: Any, param_name: str, *rest: Any) -> Any:
            value = super().sample_independent(study, trial, param_name, *rest)
            return self._rounded(param_name, value)

        def _rounded(self, key: str, value: Any) -> Any:
            found = self._ranges.get(key)
            return value if found is None or found.is_integer else found.round(value)

    return RoundingSampler
