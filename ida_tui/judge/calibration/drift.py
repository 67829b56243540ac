"""Drift monitor of the judge: fixed anchor answers scored at the start of a run and repeatedly later.

If the judge changes, the reward changes although the policy did not. The anchors are scored in the
background, bypass the cache, and cost one call each.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from statistics import fmean

from ida_tui.config.schema import AXES
from ida_tui.events import types as ev
from ida_tui.judge.calibration.anchors import ANCHORS, load_samples
from ida_tui.judge.errors import JudgeUnavailable
from ida_tui.judge.service import JudgeService
from ida_tui.judge.verdict import Verdict

DRIFT_POINTS = 1.0
"""Mean absolute change of the axis scores that counts as drift: twice the noise of one model at
temperature 0, and far below the difference between two models."""


class Probes:
    """Scores the anchors repeatedly and compares the results. Use it from one thread.

    Args:
        service: the service of the judge.
        every: steps between two probes; 0 disables them.
        steps: the total number of steps; there is no probe if the run ends before the second one.
        emit: receives the events.
    """

    def __init__(
        self,
        service: JudgeService,
        *,
        every: int,
        steps: int,
        emit: Callable[[ev.Event], object],
    ) -> None:
        self._service = service
        self._every = every if every < steps and service.slots is not None else 0
        self._emit = emit
        self._samples = [sample for sample in load_samples() if sample.id in ANCHORS]
        self._asked: dict[str, Future[Verdict]] = {}
        self._asked_at_step = 0
        self._first: dict[str, Verdict] | None = None
        self._served: str | None = None
        self._told = False

    def turn_to(self, service: JudgeService, *, same_judge: bool) -> None:
        """Continue with another service; a different judge gets a new first probe."""
        self.give_up()
        self._service = service
        if not same_judge:
            self._first, self._told = None, False
        if self._first is None:
            self.ask(0)

    def ask(self, step: int) -> None:
        """Start a probe unless one is running; returns immediately."""
        if not self._every or self._asked:
            return
        self._asked_at_step = step
        self._asked = {
            sample.id: self._service.submit(sample.question(0, fresh=True))
            for sample in self._samples
        }

    def after_step(self, step: int) -> None:
        """Collect a finished probe, and start the next if it is due or the server's model changed.

        Raises:
            JudgeUnavailable: the server changed its model, and the new one scores differently.
        """
        changed = self._served not in (None, self._service.served_model)
        self.collect()
        if self._every and (step % self._every == 0 or changed):
            self.ask(step)

    def collect(self) -> None:
        """Compare the running probe with the first one, if all of its verdicts have arrived.

        Raises:
            JudgeUnavailable: the server changed its model, and the new one scores differently.
        """
        if not self._asked or not all(future.done() for future in self._asked.values()):
            return
        finished, self._asked = self._asked, {}
        verdicts = {
            name: future.result()
            for name, future in finished.items()
            if not future.cancelled() and future.exception() is None
        }
        scored = {name: v for name, v in verdicts.items() if v.r_ida is not None}
        if not scored:
            return
        served = next((v.served_model for v in scored.values() if v.served_model), None)
        drift = None if self._first is None else _drift(self._first, scored)
        costs = [v.cost for v in verdicts.values()]
        known_costs = [cost for cost in costs if cost is not None]
        self._emit(
            ev.JudgeProbed(
                step=self._asked_at_step,
                served_model=served,
                r_ida={name: v.r_ida for name, v in verdicts.items()},
                drift=drift,
                cost=sum(known_costs) if len(known_costs) == len(costs) else None,
            )
        )
        previous, self._served = self._served, served
        if self._first is None:
            self._first = scored
        elif drift is not None and drift > DRIFT_POINTS:
            self._drifted(drift, previous, served)

    def give_up(self) -> None:
        """Cancel the running probe."""
        for future in self._asked.values():
            future.cancel()
        self._asked = {}

    def _drifted(self, drift: float, previous: str | None, served: str | None) -> None:
        """Pause the run if the server changed its model; otherwise raise one alert."""
        evidence = (
            f"scores of the same {len(self._samples)} answers moved by {drift:.1f} points per axis"
        )
        if served != previous and previous is not None:
            raise JudgeUnavailable(
                f"the judge's server changed its model from {previous} to {served}, and {evidence}",
                "resume with a judge that has a fixed version, or resume to accept the new model",
            )
        if not self._told:
            self._told = True
            advice = "rewards before and after are not comparable; pin the judge's version"
            self._emit(ev.AlertRaised(self._asked_at_step, "judge drift", evidence, advice))


def _drift(first: dict[str, Verdict], latest: dict[str, Verdict]) -> float | None:
    """Mean absolute change of the axis scores over the anchors that both probes scored."""
    changes = [
        abs(getattr(latest[name], axis) - getattr(first[name], axis))
        for name in first.keys() & latest.keys()
        for axis in AXES
    ]
    return fmean(changes) if changes else None
