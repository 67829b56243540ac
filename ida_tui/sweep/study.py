"""The combinations that are left, as an Optuna study: ask for the next one, tell what it was worth.

A trial is a combination, under the same number. All of them are put into the study's queue when it is made;
one that was asked for and not told of is running, or was when this process's predecessor was killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ida_tui.errors import IdaError, UsageError
from ida_tui.sweep.directory import Sweep
from ida_tui.sweep.status import Standing
from ida_tui.util.paths import shown_path

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

STUDY = "sweep"


def require() -> None:
    """Refuse to begin without Optuna.

    Raises:
        UsageError: it is not installed.
    """
    if find_spec("optuna") is None:
        raise UsageError(
            "a sweep needs optuna, which is not installed",
            "uv sync --extra sweep   or   pip install 'ida-tui[sweep]'",
        )


class Queue:
    """What is left of a sweep.

    Args:
        sweep: whose study it is; one that is not there is made, with every combination in its queue.

    Raises:
        IdaError: the study cannot be used.
    """

    def __init__(self, sweep: Sweep) -> None:
        require()
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
        with self._readable():
            address = URL.create("sqlite", database=str(sweep.study))
            self._study: Study = optuna.create_study(
                storage=RDBStorage(address.render_as_string()),
                study_name=STUDY,
                direction="maximize",  # R_IDA of the last steps
                # Never asked: every combination is in the queue, and none is made up.
                sampler=optuna.samplers.RandomSampler(seed=0),
                load_if_exists=True,
            )
            # Cut off while it was filled, it is filled to the end.
            there = len(self._study.get_trials(deepcopy=False))
            for number, combination in list(enumerate(sweep.combinations))[there:]:
                made_of = str(sweep.config(number).relative_to(sweep.path))
                self._study.enqueue_trial(dict(combination.values), user_attrs={"config": made_of})

    def asked(self) -> list[int]:
        """The combinations that were given out and not told of, in order."""
        with self._readable():
            trials = self._study.get_trials(deepcopy=False, states=(self._states.RUNNING,))
            return [trial.number for trial in trials]

    def ask(self) -> int | None:
        """The next combination; None where all were given out."""
        with self._readable():
            if not self._study.get_trials(deepcopy=False, states=(self._states.WAITING,)):
                return None
            return self._study.ask(self._space).number

    def tell(self, one: Standing) -> None:
        """What became of a combination that was asked for and is over; told of once."""
        with self._readable():
            trial = self._study.get_trials(deepcopy=False)[one.number]
            if trial.state.is_finished():
                return
            value = one.r_ida if one.stage == "done" else None
            if value is None:
                self._study.tell(one.number, state=self._states.FAIL)
            else:
                self._study.tell(one.number, value)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, ValueError, KeyError, IndexError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise IdaError(
                f"the sweep's study cannot be used: {why}",
                f"take {shown_path(self._sweep.study)} away: it is made anew from the runs",
            ) from error
