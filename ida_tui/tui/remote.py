"""App of a run on another machine: shows its copy, and what happens to the connection."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ida_tui.tui.app import IdaApp
from ida_tui.tui.main import RemoteRun
from ida_tui.tui.run_controller import RunController

if TYPE_CHECKING:
    from ida_tui.tui.run_view.watched import RunView

MESSAGE_INTERVAL_S = 0.5
"""Seconds between two checks for messages about the connection."""
LOCAL_ACTIONS = frozenset({"save", "agree", "disagree", "clear_mark"})
"""Actions that write into the run directory, of which only a copy is here."""


class RemoteRunController(RunController):
    """Shows a run with the address where it is.

    Args:
        app: the app.
        remote: the run of another machine.
    """

    def __init__(self, app: IdaApp, remote: RemoteRun) -> None:
        super().__init__(app)
        self._remote = remote

    def show(self, run_view: RunView, *, in_front: bool = True) -> None:
        """Show a run on all screens."""
        if run_view.source.directory == self._remote.copy:
            run_view.place = self._remote.address
        super().show(run_view, in_front=in_front)


class RemoteApp(IdaApp):
    """The app that opens the copy of a run on another machine.

    Args:
        remote: the run.
        options: as for `IdaApp`.
    """

    def __init__(self, remote: RemoteRun, **options: Any) -> None:
        super().__init__(open_directory=remote.copy, **options)
        self._remote = remote
        self.run_controller = RemoteRunController(self, remote)

    async def on_mount(self) -> None:
        """Show messages about the connection from now on."""
        self.set_interval(MESSAGE_INTERVAL_S, self._show_messages, name="connection")

    def _show_messages(self) -> None:
        while True:
            try:
                text = self._remote.messages.get_nowait()
            except queue.Empty:
                return
            severity = "information" if text.startswith("✓") else "warning"
            self.notify(text, severity=severity, timeout=15)

    def allows(self, action: str, parameters: tuple[object, ...]) -> bool:
        """Whether the action is allowed: what would be written into the copy would be lost."""
        return action not in LOCAL_ACTIONS or self._shown_directory != self._remote.copy

    @property
    def _shown_directory(self) -> Path | None:
        return self.run_view.source.directory if self.run_view is not None else None
