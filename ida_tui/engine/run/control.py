"""Requests to a training run: stop, pause, resume, hand over. Safe from any thread and from signals."""

from __future__ import annotations

import threading

from ida_tui.runs import control
from ida_tui.runs.directory import RunDirectory

INTERVAL_S = 0.2
"""Time between two checks for a request from another process."""


class Control:
    """The requests, as thread events; a request to stop overrides one to pause."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        """Set when the run should end."""
        self._handed_over = threading.Event()
        self._paused = threading.Event()
        self._woken = threading.Event()

    @property
    def pausing(self) -> bool:
        """Whether the run should pause, or stay paused."""
        return self._paused.is_set() and not self.handing_over and not self.stop.is_set()

    @property
    def handing_over(self) -> bool:
        """Whether the run should end after the current step so that another process can resume it."""
        return self._handed_over.is_set() and not self.stop.is_set()

    def request_stop(self) -> None:
        """End the run; it saves a checkpoint first."""
        self.stop.set()
        self._woken.set()

    def request_hand_over(self) -> None:
        """End the run after the current step, or now if it is paused, so that another process resumes it."""
        self._handed_over.set()
        self._woken.set()

    def request_pause(self) -> None:
        """Pause after the current step."""
        self._woken.clear()
        self._paused.set()

    def go_on(self) -> None:
        """Resume a run that is paused, or cancel a pause that was requested."""
        self._paused.clear()
        self._woken.set()

    def wait_while_paused(self) -> None:
        """Wait until the run should resume, stop or be handed over; call it on the trainer's thread."""
        while self.pausing:
            self._woken.wait(timeout=1.0)

    def obey(self, asked: control.Asked) -> None:
        """Apply a request from another process."""
        {"pause": self.request_pause, "go_on": self.go_on, "stop": self.request_stop}[asked]()


class Listener:
    """A context manager whose thread reads the requests of other processes from the run directory."""

    def __init__(self, directory: RunDirectory, run_control: Control) -> None:
        self._directory = directory
        self._control = run_control
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="ida-control", daemon=True)

    def __enter__(self) -> None:
        control.take(self._directory)  # discard a request to an earlier process
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._leave.set()
        self._thread.join()

    def _listen(self) -> None:
        while not self._leave.wait(INTERVAL_S):
            request = control.take(self._directory)
            if request is not None:
                self._control.obey(request)
