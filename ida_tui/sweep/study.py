"""Queue of a sweep's combinations and their results, stored as an Optuna study.

Each combination is a trial with the same number. All trials are enqueued when the study is created. A trial
that was asked for and has no result is running, or was running when an earlier sweep process was killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ida_tui.errors import IdaError, UsageError
from ida_tui.sweep.directory import Sweep
from ida_tui.sweep.status import TrialStatus
from ida_tui.util.paths import display_path

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

STUDY_NAME = "sweep"


def require_optuna() -> None:
    """Check that Optuna is installed.

    Raises:
        UsageError: Optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise UsageError(
            "a sweep needs optuna, which is not installed",
            "uv sync --extra sweep   or   pip install 'ida-tui[sweep]'",
        )


class TrialQueue:
    """The remaining combinations of a sweep.

    Args:
        sweep: the sweep; if it has no study, a study with every combination in its queue is created.

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
        self._space: dict[str, BaseDistribution] = {
            key: optuna.distributions.CategoricalDistribution(values)
            for key, values in sweep.keys.items()
        }
        with self._study_errors():
            address = URL.create("sqlite", database=str(sweep.study_file))
            self._study: Study = optuna.create_study(
                storage=RDBStorage(address.render_as_string()),
                study_name=STUDY_NAME,
                direction="maximize",  # the reward of the last steps
                # Never used: every combination is in the queue.
                sampler=optuna.samplers.RandomSampler(seed=0),
                load_if_exists=True,
            )
            # If an earlier process was killed while enqueueing, enqueue the rest.
            existing = len(self._study.get_trials(deepcopy=False))
            for number, combination in list(enumerate(sweep.combinations))[existing:]:
                config_path = str(sweep.config_file(number).relative_to(sweep.path))
                self._study.enqueue_trial(
                    dict(combination.values), user_attrs={"config": config_path}
                )

    def pending(self) -> list[int]:
        """The combinations that were asked for and have no result yet, in order."""
        with self._study_errors():
            trials = self._study.get_trials(deepcopy=False, states=(self._states.RUNNING,))
            return [trial.number for trial in trials]

    def ask(self) -> int | None:
        """The next combination; None if all were asked for."""
        with self._study_errors():
            if not self._study.get_trials(deepcopy=False, states=(self._states.WAITING,)):
                return None
            return self._study.ask(self._space).number

    def tell(self, status: TrialStatus) -> None:
        """Record the result of a finished combination; later calls for it do nothing."""
        with self._study_errors():
            trial = self._study.get_trials(deepcopy=False)[status.number]
            if trial.state.is_finished():
                return
            value = status.reward if status.stage == "done" else None
            if value is None:
                self._study.tell(status.number, state=self._states.FAIL)
            else:
                self._study.tell(status.number, value)

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
