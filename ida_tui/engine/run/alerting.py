"""Alert handling of a training run: raise alerts after each step, then pause or stop as configured."""

from __future__ import annotations

from dataclasses import dataclass

from ida_tui.engine.exceptions import StoppedByAlert
from ida_tui.engine.run.context import UnderWay
from ida_tui.events.alerts.rules import due
from ida_tui.events.types import AlertRaised


@dataclass(slots=True)
class Alerting:
    """Evaluates the alert rules of one run after every step; called on the trainer's thread."""

    run: UnderWay
    _seen: int = -1
    """Number of alerts at the last call of `next_pausing_alert`; -1 before the first."""

    def after_step(self) -> None:
        """Emit the alerts that the step that just finished raises."""
        for alert in due(self.run.state, self.run.config):
            self.run.emit(alert)

    def pausing(self) -> AlertRaised | None:
        """The newest alert since the last call, if the run has to pause for it; otherwise None.

        Raises:
            StoppedByAlert: the profile has alerts stop the run.
        """
        seen, self._seen = self._seen, self.run.state.alerted
        if seen < 0 and self.run.resume is not None:
            seen = self.run.resume.state.alerted  # alerts of an earlier process were handled by it
        if self.run.state.alerted <= max(0, seen):
            return None
        alert = self.run.state.alerts[-1]
        on_alert = self.run.config.alerts.on_alert
        if on_alert == "stop":
            raise StoppedByAlert(alert)
        return alert if on_alert == "pause" else None
