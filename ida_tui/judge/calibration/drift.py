"""Drift monitor of the judge: fixed anchor answers scored at the start of a run and repeatedly later.

If the judge changes, the reward changes although the policy did not. The anchors are scored in the
background, bypass the cache, and cost one call each.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from ida_tui.events import types as ev
from ida_tui.judge.calibration.anchors import DRIFT_ANCHOR_IDS, load_anchors
from ida_tui.judge.errors import JudgeUnavailable
from ida_tui.judge.service import JudgeService
from ida_tui.judge.verdict import Verdict
from ida_tui.util.statistics import mean_of_known

DRIFT_THRESHOLD = 1.0
"""Mean absolute change of the axis scores that counts as drift: twice the noise of one model at
temperature 0, and far below the difference between two models."""
MIN_DRIFT_ANCHORS = 3
"""Fewest anchors that both probes must have scored: one answer alone may move by chance."""


class DriftMonitor:
    """Scores the anchors repeatedly and compares the results. Use it from one thread.

    Args:
        service: the service of the judge.
        interval: steps between two probes; 0 disables them.
        planned_steps: the total number of steps; there is no probe if the run ends before the second one.
        emit: receives the events.
    """

    def __init__(
        self,
        service: JudgeService,
        *,
        interval: int,
        planned_steps: int,
        emit: Callable[[ev.Event], object],
    ) -> None:
        self._service = service
        self._interval = interval if interval < planned_steps and service.slots is not None else 0
        self._emit = emit
        self._anchors = [sample for sample in load_anchors() if sample.id in DRIFT_ANCHOR_IDS]
        self._pending: dict[str, Future[Verdict]] = {}
        self._probe_step = 0
        self._baseline: dict[str, Verdict] | None = None
        self._served_model: str | None = None
        self._alerted = False

    def switch_service(self, service: JudgeService, *, same_judge: bool) -> None:
        """Continue with another service; a different judge gets a new first probe."""
        self.cancel()
        self._service = service
        if not same_judge:
            self._baseline, self._alerted = None, False
        if self._baseline is None:
            self.start_probe(0)

    def start_probe(self, step: int) -> None:
        """Start a probe unless one is running; returns immediately."""
        if not self._interval or self._pending:
            return
        self._probe_step = step
        self._pending = {
            sample.id: self._service.submit(sample.judge_request(0, bypass_cache=True))
            for sample in self._anchors
        }

    def after_step(self, step: int) -> None:
        """Collect a finished probe, and start the next if it is due or the server's model changed.

        Raises:
            JudgeUnavailable: the server changed its model, and the new one scores differently.
        """
        changed = self._served_model not in (None, self._service.served_model)
        self.collect()
        if self._interval and (step % self._interval == 0 or changed):
            self.start_probe(step)

    def collect(self) -> None:
        """Compare the running probe with the first one, if all of its verdicts have arrived.

        Raises:
            JudgeUnavailable: the server changed its model, and the new one scores differently.
        """
        if not self._pending or not all(future.done() for future in self._pending.values()):
            return
        finished, self._pending = self._pending, {}
        verdicts = {
            name: future.result()
            for name, future in finished.items()
            if not future.cancelled() and future.exception() is None
        }
        scored = {name: v for name, v in verdicts.items() if v.has_scores}
        if not scored:
            return
        served = next((v.served_model for v in scored.values() if v.served_model), None)
        drift = None if self._baseline is None else _mean_axis_change(self._baseline, scored)
        costs = [v.cost for v in verdicts.values()]
        known_costs = [cost for cost in costs if cost is not None]
        self._emit(
            ev.JudgeProbed(
                step=self._probe_step,
                served_model=served,
                rewards={name: v.reward for name, v in verdicts.items()},
                drift=drift,
                cost=sum(known_costs) if len(known_costs) == len(costs) else None,
            )
        )
        previous, self._served_model = self._served_model, served
        if self._baseline is None:
            self._baseline = scored
        elif drift is not None and drift > DRIFT_THRESHOLD:
            self._report_drift(drift, previous, served)

    def cancel(self) -> None:
        """Cancel the running probe."""
        for future in self._pending.values():
            future.cancel()
        self._pending = {}

    def _report_drift(self, drift: float, previous: str | None, served: str | None) -> None:
        """Pause the run if the server changed its model; otherwise raise one alert."""
        evidence = (
            f"scores of the same {len(self._anchors)} answers moved by {drift:.1f} points per axis"
        )
        if served != previous and previous is not None:
            raise JudgeUnavailable(
                f"the judge's server changed its model from {previous} to {served}, and {evidence}",
                "resume with a judge that has a fixed version, or resume to accept the new model",
            )
        if not self._alerted:
            self._alerted = True
            advice = "rewards before and after are not comparable; pin the judge's version"
            self._emit(ev.AlertRaised(self._probe_step, "judge drift", evidence, advice))


def _mean_axis_change(baseline: dict[str, Verdict], latest: dict[str, Verdict]) -> float | None:
    """Mean absolute change of the axis scores over the anchors that both probes scored; None for too few."""
    if len(baseline.keys() & latest.keys()) < MIN_DRIFT_ANCHORS:
        return None
    changes = [
        abs((latest[name].scores.get(axis) or 0.0) - (score or 0.0))
        for name in baseline.keys() & latest.keys()
        for axis, score in baseline[name].scores.items()
    ]
    return mean_of_known(changes)
