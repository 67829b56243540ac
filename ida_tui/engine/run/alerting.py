"""Alert handling of a training run: raise alerts after each step, then pause or stop as configured."""

from __future__ import annotations

from dataclasses import dataclass

from ida_tui.engine.exceptions import StoppedByAlert
from ida_tui.engine.run.context import RunContext
from ida_tui.events.alerts.rules import evaluate_rules
from ida_tui.events.types import AlertRaised


@dataclass(slots=True)
class AlertHandler:
    """Evaluates the alert rules of one run after every step; called on the trainer's thread."""

    run: RunContext
    _handled_alerts: int = -1
    """Number of alerts at the last call of `next_pausing_alert`; -1 before the first."""

    def raise_alerts(self) -> None:
        """Emit the alerts that the step that just finished raises."""
        for alert in evaluate_rules(self.run.state, self.run.config):
            self.run.emit(alert)

    def next_pausing_alert(self) -> AlertRaised | None:
        """The newest alert since the last call, if the run has to pause for it; otherwise None.

        Raises:
            StoppedByAlert: the profile has alerts stop the run.
        """
        seen, self._handled_alerts = self._handled_alerts, self.run.state.alert_count
        if seen < 0 and self.run.resume_point is not None:
            seen = (
                self.run.resume_point.state.alert_count
            )  # alerts of an earlier process were handled by it
        if self.run.state.alert_count <= max(0, seen):
            return None
        alert = self.run.state.alerts[-1]
        on_alert = self.run.config.alerts.on_alert
        if on_alert == "stop":
            raise StoppedByAlert(alert)
        return alert if on_alert == "pause" else None
