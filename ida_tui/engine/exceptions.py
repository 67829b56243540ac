"""Why training leaves the trainer early: asked to stop, or numbers that are no longer numbers."""

from __future__ import annotations

from ida_tui.errors import ExitCode, IdaError
from ida_tui.events.types import AlertRaised


class RunInterrupted(Exception):
    """The user asked to stop. Raised on the trainer's thread at a place where that is safe."""


class PauseAsked(Exception):
    """The run pauses, and what it holds is given back meanwhile. Raised between two steps."""


class NonFinite(IdaError):
    """A loss, gradient or probability is NaN or infinite; going on would destroy the weights."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(
            f"{what} is not finite at step {step}; training stopped before it reached the weights",
            "lower training.learning_rate (try a third), or set training.max_grad_norm=1.0;\n"
            "in 16-bit formats, training.method=lora with training.fp16=auto keeps a scaler",
        )


class StoppedByAlert(IdaError):
    """The profile has alerts stop the run (`alerts.on_alert: stop`), and one was raised."""

    def __init__(self, alert: AlertRaised) -> None:
        super().__init__(
            f"stopped by an alert ({alert.rule}) at step {alert.step}: {alert.evidence}",
            alert.advice,
            code=ExitCode.STOPPED_BY_ALERT,
        )
