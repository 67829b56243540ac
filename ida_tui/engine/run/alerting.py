"""Alerts of a run: raised after a step, and what the profile has done about them."""

from __future__ import annotations

from dataclasses import dataclass

from ida_tui.engine.exceptions import StoppedByAlert
from ida_tui.engine.run.context import UnderWay
from ida_tui.events.alerts.rules import due
from ida_tui.events.types import AlertRaised


@dataclass(slots=True)
class Alerting:
    """Looks at one run after every step; on the trainer's thread."""

    run: UnderWay
    _seen: int = -1
    """How many alerts there were when something was last done about them."""

    def after_step(self) -> None:
        """Say what the step that has just finished gives reason to say."""
        for alert in due(self.run.state, self.run.config):
            self.run.emit(alert)

    def pausing(self) -> AlertRaised | None:
        """The alert that the run is to pause for, said since this was asked last; None where there is none.

        Raises:
            StoppedByAlert: the run is to end.
        """
        seen, self._seen = self._seen, self.run.state.alerted
        if seen < 0 and self.run.resume is not None:
            seen = self.run.resume.state.alerted  # what an earlier process said is dealt with
        if self.run.state.alerted <= max(0, seen):
            return None
        alert = self.run.state.alerts[-1]
        on_alert = self.run.config.alerts.on_alert
        if on_alert == "stop":
            raise StoppedByAlert(alert)
        return alert if on_alert == "pause" else None
