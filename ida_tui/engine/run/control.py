"""Requests to a training run (stop, pause, resume), safe from any thread and signal handler.

This module does not import torch, so that the screens can use it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ida_tui.runs import control
from ida_tui.runs.directory import RunDirectory

if TYPE_CHECKING:
    from ida_tui.config.schema import JudgeConfig, JudgeKey

POLL_INTERVAL_S = 0.2
"""Time between two checks for a request from another process."""


class RunControl:
    """The requests, as thread events; a request to stop overrides one to pause."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        """Set when the run should end."""
        self.unattended = threading.Event()
        """Set when nobody is there any more who could decide on a pause."""
        self._pause = threading.Event()
        self._wake = threading.Event()

    @property
    def pause_requested(self) -> bool:
        """Whether the run should pause, or stay paused."""
        return self._pause.is_set() and not self.stop.is_set()

    def request_stop(self) -> None:
        """End the run; it saves a checkpoint first."""
        self.stop.set()
        self._wake.set()

    def request_pause(self) -> None:
        """Pause after the current step."""
        self._wake.clear()
        self._pause.set()

    def request_resume(self) -> None:
        """Resume a run that is paused, or cancel a pause that was requested."""
        self._pause.clear()
        self._wake.set()

    def wait_while_paused(self) -> None:
        """Wait until the run should resume or stop; call it on the trainer's thread."""
        while self.pause_requested:
            self._wake.wait(timeout=1.0)

    def apply(self, request: control.ControlRequest) -> None:
        """Apply a request from another process."""
        {"pause": self.request_pause, "go_on": self.request_resume, "stop": self.request_stop}[
            request
        ]()


@dataclass(frozen=True, slots=True)
class ResumeDecision:
    """Decision to resume a run that is paused because its judge is unavailable."""

    judge: JudgeConfig
    key: JudgeKey
    """The judge's API key, or null if it needs none; never written to disk."""
    budget: float | None
    """Most that the judge may cost over the full run, in US dollars; null for no limit."""


class ControlFileWatcher:
    """A context manager whose thread reads the requests of other processes from the run directory."""

    def __init__(self, directory: RunDirectory, run_control: RunControl) -> None:
        self._directory = directory
        self._control = run_control
        self._exit = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ida-control", daemon=True)

    def __enter__(self) -> None:
        control.pop_request(self._directory)  # discard a request to an earlier process
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._exit.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._exit.wait(POLL_INTERVAL_S):
            request = control.pop_request(self._directory)
            if request is not None:
                self._control.apply(request)
