"""Log pane: the run's messages, newest at the bottom."""

from __future__ import annotations

from datetime import datetime

from textual.content import Content

from ida_tui.events import narration
from ida_tui.events import types as ev
from ida_tui.events.state import RunState
from ida_tui.tui.run_view.watched import Watched
from ida_tui.tui.screens.run.pane import Pane
from ida_tui.util.text import printable

BOLD = ("!", "✗")
"""First characters of the lines shown in bold."""


class LogPane(Pane):
    """The lines that the headless command prints, with scrolling.

    A scrolling widget would lay out the full screen again for every line; this one draws only the visible
    lines.
    """

    NAME, KEY = "Log", "L"

    def __init__(self) -> None:
        super().__init__()
        self._up = 0
        """Number of newer lines below the last visible line."""
        self._of: tuple[int, ...] = ()
        self._lines: list[str] = []

    def text(self, state: RunState, run_view: Watched, now: datetime) -> Content:
        """The visible lines."""
        newest = state.recent[-1].seq if state.recent else -1
        source = (id(run_view), newest, len(state.recent))
        if source != self._of:
            lines = [line for record in state.recent for line in log_lines(state, record)]
            if self._up and source[0] == (self._of or source)[0]:
                # Keep the scroll position while new lines arrive below.
                self._up = max(0, self._up + len(lines) - len(self._lines))
            self._of, self._lines = source, lines
        height = max(1, self.room[1])
        self._up = min(self._up, max(0, len(self._lines) - height))
        end = len(self._lines) - self._up
        self.border_subtitle = self._hint if not self._up else f"{self._up} newer below"
        return Content("\n").join(
            Content.styled(line, "bold") if line.startswith(BOLD) else Content(line)
            for line in self._lines[max(0, end - height) : end]
        )

    _hint = ""

    def hint(self, text: str) -> None:
        """Set the frame's subtitle for when the newest line is visible."""
        self._hint = text
        if not self._up:
            self.border_subtitle = text

    def _scroll(self, lines: int) -> None:
        self._up = max(0, self._up + lines)
        self.on_resize()  # redraws the pane

    def action_scroll_up(self) -> None:
        """Scroll up by one line."""
        self._scroll(1)

    def action_scroll_down(self) -> None:
        """Scroll down by one line."""
        self._scroll(-1)

    def action_scroll_home(self) -> None:
        """Scroll to the oldest line in memory."""
        self._scroll(len(self._lines))

    def action_scroll_end(self) -> None:
        """Scroll to the newest line."""
        self._scroll(-self._up)


def log_lines(state: RunState, record: ev.Record) -> list[str]:
    """The lines of one record, with control characters made visible."""
    return [printable(line) for line in narration.lines(state, record.event)]
