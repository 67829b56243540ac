"""What the run has said, newest at the bottom."""

from __future__ import annotations

from datetime import datetime

from rich.text import Text
from textual.widgets import RichLog

from ida_tui import events as ev
from ida_tui import narration
from ida_tui.printable import printable
from ida_tui.state import RunState
from ida_tui.tui.watched import Changed, Watched

BOLD = ("!", "✗")
"""Marks of the lines that stand out."""


class LogPane(RichLog, can_focus=True):
    """The lines of the command line, as they come; scroll with the arrows."""

    NAME, KEY = "Log", "L"

    def __init__(self) -> None:
        super().__init__(id="log", classes="pane", wrap=False, markup=False, max_lines=1000)
        self.border_title = f"{self.NAME} \\[{self.KEY}]"
        self._of: int | None = None
        self._last = -1

    def show(self, watched: Watched, now: datetime, changed: Changed | None) -> None:
        """Append what is new; start again where somebody looks back, or at another run."""
        state = watched.shown
        newest = state.recent[-1].seq if state.recent else -1
        if self._of != id(watched) or newest < self._last:
            self.clear()
            self._of, self._last = id(watched), -1
        for record in state.recent:
            if record.seq > self._last:
                for line in log_lines(state, record):
                    self.write(
                        Text(line, style="bold" if line.startswith(BOLD) else "", no_wrap=True)
                    )
        self._last = newest


def log_lines(state: RunState, record: ev.Record) -> list[str]:
    """The lines of one record, without what a terminal would act on."""
    return [printable(line) for line in narration.lines(state, record.event)]
