"""A session without a model: its thread runs a script that emits events through a real event log."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from ida_tui.config.resolve import resolve
from ida_tui.engine.session import Session
from ida_tui.errors import IdaError
from ida_tui.events import types as ev
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.writer import EventLog

Script = Callable[[EventLog, threading.Event], None]
"""Emits the events of a run; the threading event is set when the run is asked to stop."""


class ScriptedSession(Session):
    """A session whose run is a script.

    Args:
        directory: the run directory, to which its events are written.
        script: emits the events of the run.
    """

    def __init__(self, directory: Path, script: Script) -> None:
        super().__init__(resolve("quickstart").config)
        self._directory = RunDirectory(directory)
        self._script = script

    def _main(self) -> None:
        self._directory.logs.mkdir(parents=True, exist_ok=True)
        try:
            with EventLog(self._directory) as log:
                log.subscribe(self._records)
                self._script(log, self._control.stop)
        except IdaError as error:
            self._start_error = error


def run_started(directory: Path, steps: int = 40) -> ev.RunStarted:
    """The first event of a run of the embedded model."""
    return ev.RunStarted(
        run_id=directory.name,
        directory=str(directory),
        experiment="quickstart",
        model="embedded",
        judge=ev.OFFLINE_JUDGE,
        device="cpu",
        dtype="float32",
        precision="float32",
        method="lora",
        params=886_144,
        trainable_params=143_360,
        steps=steps,
        prompts=8,
        generations=8,
        completions_per_step=64,
        seed=0,
        limit_gb=24.0,
        planned_gb=1.4,
    )


def run_ended(status: ev.RunEndStatus, message: str, hint: str = "", code: int = 0) -> ev.RunEnded:
    """The last event of a run."""
    return ev.RunEnded(
        status=status,
        exit_code=code,
        steps_done=0,
        reward_first=None,
        reward_last=None,
        weight_delta=0.01,
        model_change=0.01,
        seconds=1.0,
        cost=0.0,
        message=message,
        hint=hint,
    )


def until_stopped(log: EventLog, stop: threading.Event) -> None:
    """A script of a run that continues until it is asked to stop."""
    log.emit(run_started(Path("run")))
    log.emit(ev.PhaseChanged(1, "generate"))
    stop.wait()
    log.emit(run_ended("interrupted", "Stopped after step 0 of 40", code=130))
