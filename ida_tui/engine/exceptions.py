"""Exceptions that end training early: stop, pause, non-finite values, alerts."""

from __future__ import annotations

from ida_tui.errors import ExitCode, IdaError
from ida_tui.events.types import AlertRaised


class RunInterrupted(Exception):
    """A stop was requested. Raised on the trainer's thread where it is safe to leave the step."""


class PauseRequested(Exception):
    """The run pauses and frees its memory meanwhile. Raised between two steps."""


class NonFiniteError(IdaError):
    """A loss, gradient, probability or weight is NaN or infinite. Training on would destroy the weights."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(
            f"{what} is not finite at step {step}; training stopped to protect the weights",
            "lower training.learning_rate to a third, or set training.max_grad_norm=1.0;\n"
            "in a 16-bit format, training.method=lora with training.fp16=auto uses a loss scaler",
        )


class StoppedByAlert(IdaError):
    """An alert was raised and the profile stops the run on alerts (`alerts.on_alert: stop`)."""

    def __init__(self, alert: AlertRaised) -> None:
        super().__init__(
            f"stopped by an alert ({alert.rule}) at step {alert.step}: {alert.evidence}",
            alert.advice,
            code=ExitCode.STOPPED_BY_ALERT,
        )
