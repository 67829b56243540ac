"""What others ask of a run: to stop, to pause, to go on. Safe from any thread and from a signal."""

from __future__ import annotations

import threading

from ida_tui.runs import control
from ida_tui.runs.directory import RunDirectory

INTERVAL_S = 0.2
"""Between two looks for a request of another process."""


class Control:
    """The requests, as two events; a request to stop outlasts one to pause."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        """Set once the run should end."""
        self._handed_over = threading.Event()
        self._paused = threading.Event()
        self._woken = threading.Event()

    @property
    def pausing(self) -> bool:
        """Whether the run should pause, or stay paused."""
        return self._paused.is_set() and not self.handing_over and not self.stop.is_set()

    @property
    def handing_over(self) -> bool:
        """Whether the run should end after the step under way, and another process go on with it."""
        return self._handed_over.is_set() and not self.stop.is_set()

    def request_stop(self) -> None:
        """End the run; it saves a checkpoint first."""
        self.stop.set()
        self._woken.set()

    def request_hand_over(self) -> None:
        """End the run after the step under way, at once if it is paused, so that another process goes on."""
        self._handed_over.set()
        self._woken.set()

    def request_pause(self) -> None:
        """Pause after the step under way."""
        self._woken.clear()
        self._paused.set()

    def go_on(self) -> None:
        """Go on, if it is paused or about to be."""
        self._paused.clear()
        self._woken.set()

    def wait_while_paused(self) -> None:
        """Wait until the run should go on or stop; for the trainer's thread."""
        while self.pausing:
            self._woken.wait(timeout=1.0)

    def obey(self, asked: control.Asked) -> None:
        """Do what another process asks."""
        {"pause": self.request_pause, "go_on": self.go_on, "stop": self.request_stop}[asked]()


class Listener:
    """A thread that looks for requests of other processes in the run's directory while it is entered."""

    def __init__(self, directory: RunDirectory, obeys: Control) -> None:
        self._directory = directory
        self._control = obeys
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="ida-control", daemon=True)

    def __enter__(self) -> None:
        control.take(self._directory)  # what was asked of an earlier process is not for this one
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._leave.set()
        self._thread.join()

    def _listen(self) -> None:
        while not self._leave.wait(INTERVAL_S):
            asked = control.take(self._directory)
            if asked is not None:
                self._control.obey(asked)
