"""A few fixed answers, judged at the start of a run and again as it goes on: is it still the same judge?

A judge that drifts moves the reward without the policy having moved. The anchors are asked past the
cache, in the background, and cost a call each.
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
"""Mean absolute change of an axis that counts as drift: twice what one model says from call to call
at temperature 0, and far less than what another model says."""


class Probes:
    """Asks about the anchors and compares; use it from one thread.

    Args:
        service: asks the judge.
        every: steps between two probes; 0 never asks.
        steps: steps of the whole run; a run that ends before the second probe needs no first.
        emit: takes what was found.
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
        """Go on with another service; another judge has its own first probe."""
        self.give_up()
        self._service = service
        if not same_judge:
            self._first, self._told = None, False
        if self._first is None:
            self.ask(0)

    def ask(self, step: int) -> None:
        """Ask about the anchors, unless they are being asked about; returns at once."""
        if not self._every or self._asked:
            return
        self._asked_at_step = step
        self._asked = {
            sample.id: self._service.submit(sample.question(0, fresh=True))
            for sample in self._samples
        }

    def after_step(self, step: int) -> None:
        """Take in what has come, and ask again when it is time or the server changed its model.

        Raises:
            JudgeUnavailable: the server changed its model, and the new one scores differently.
        """
        changed = self._served not in (None, self._service.served_model)
        self.collect()
        if self._every and (step % self._every == 0 or changed):
            self.ask(step)

    def collect(self) -> None:
        """Compare what has come, if all of it has.

        Raises:
            JudgeUnavailable: the server changed its model, and the new one scores differently.
        """
        if not self._asked or not all(future.done() for future in self._asked.values()):
            return
        asked, self._asked = self._asked, {}
        verdicts = {
            name: future.result()
            for name, future in asked.items()
            if not future.cancelled() and future.exception() is None
        }
        scored = {name: v for name, v in verdicts.items() if v.r_ida is not None}
        if not scored:
            return
        served = next((v.served_model for v in scored.values() if v.served_model), None)
        drift = None if self._first is None else _drift(self._first, scored)
        costs = [v.cost for v in verdicts.values()]
        known = [cost for cost in costs if cost is not None]
        self._emit(
            ev.JudgeProbed(
                step=self._asked_at_step,
                served_model=served,
                r_ida={name: v.r_ida for name, v in verdicts.items()},
                drift=drift,
                cost=sum(known) if len(known) == len(costs) else None,
            )
        )
        before, self._served = self._served, served
        if self._first is None:
            self._first = scored
        elif drift is not None and drift > DRIFT_POINTS:
            self._drifted(drift, before, served)

    def give_up(self) -> None:
        """Ask about nothing any more."""
        for future in self._asked.values():
            future.cancel()
        self._asked = {}

    def _drifted(self, drift: float, before: str | None, served: str | None) -> None:
        evidence = f"the same {len(self._samples)} answers score {drift:.1f} points an axis apart"
        if served != before and before is not None:
            raise JudgeUnavailable(
                f"the judge's server changed its model from {before} to {served}, and {evidence}",
                "go on with a judge of a fixed version, or accept the new one and go on",
            )
        if not self._told:
            self._told = True
            advice = "rewards before and after do not compare; pin the judge's version"
            self._emit(ev.AlertRaised(self._asked_at_step, "judge drift", evidence, advice))


def _drift(first: dict[str, Verdict], now: dict[str, Verdict]) -> float | None:
    """Mean absolute change of an axis, over the anchors that both probes scored."""
    changes = [
        abs(getattr(now[name], axis) - getattr(first[name], axis))
        for name in first.keys() & now.keys()
        for axis in AXES
    ]
    return fmean(changes) if changes else None
