"""Sentences of a report on the time of a step."""

from __future__ import annotations

from ida_tui.events.step_time import TimeSettings, format_phases, step_time
from ida_tui.runs.run import Run


def step_time_note(run: Run) -> str:
    """Where the time of a step went, against what the device could do, and what would save most."""
    settings = TimeSettings()
    if not run.config_error:
        settings = TimeSettings(
            recomputes=run.config.training.gradient_checkpointing is True,
            is_plain=run.config.engine == "plain",
        )
    time = step_time(run.state, settings)
    if time is None:
        return ""
    note = (
        f"At the end a step took {format_phases(time)}. The limit is the time in which this machine, at its"
        " speed as measured at the start, reads the weights and does the arithmetic."
    )
    if (saving := time.saving) is not None:
        note += f" What would save most, up to {saving.seconds:.1f} s a step: {saving.change}"
        note += f" {saving.reason}."
    return note
