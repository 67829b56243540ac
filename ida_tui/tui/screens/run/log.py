"""Log pane: the run's messages, newest at the bottom."""

from __future__ import annotations

from datetime import datetime

from textual.content import Content

from ida_tui.events import narration
from ida_tui.events import types as ev
from ida_tui.events.state import RunState
from ida_tui.tui.run_view.watched import RunView
from ida_tui.tui.screens.run.pane import Pane
from ida_tui.util.text import one_line

BOLD_MARKS = ("!", "✗")
"""First characters of the lines shown in bold."""


class LogPane(Pane):
    """The lines that the headless command prints, with scrolling.

    A scrolling widget would lay out the full screen again for every line; this one draws only the visible
    lines.
    """

    NAME, KEY = "Log", "L"

    def __init__(self) -> None:
        super().__init__()
        self._scrolled_lines = 0
        """Number of newer lines below the last visible line."""
        self._source_key: tuple[int, ...] = ()
        self._lines: list[str] = []

    def render_text(self, state: RunState, run_view: RunView, now: datetime) -> Content:
        """The visible lines."""
        newest = state.log_records[-1].seq if state.log_records else -1
        source = (id(run_view), newest, len(state.log_records))
        if source != self._source_key:
            lines = [line for record in state.log_records for line in log_lines(state, record)]
            if self._scrolled_lines and source[0] == (self._source_key or source)[0]:
                # Keep the scroll position while new lines arrive below.
                self._scrolled_lines = max(0, self._scrolled_lines + len(lines) - len(self._lines))
            self._source_key, self._lines = source, lines
        height = max(1, self.available_size[1])
        self._scrolled_lines = min(self._scrolled_lines, max(0, len(self._lines) - height))
        end = len(self._lines) - self._scrolled_lines
        self.border_subtitle = (
            self._hint if not self._scrolled_lines else f"{self._scrolled_lines} newer below"
        )
        return Content("\n").join(
            Content.styled(line, "bold") if line.startswith(BOLD_MARKS) else Content(line)
            for line in self._lines[max(0, end - height) : end]
        )

    _hint = ""

    def set_hint(self, text: str) -> None:
        """Set the frame's subtitle for when the newest line is visible."""
        self._hint = text
        if not self._scrolled_lines:
            self.border_subtitle = text

    def _scroll(self, lines: int) -> None:
        self._scrolled_lines = max(0, self._scrolled_lines + lines)
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
        self._scroll(-self._scrolled_lines)


def log_lines(state: RunState, record: ev.Record) -> list[str]:
    """The lines of one record, with control characters made visible."""
    return [one_line(line) for line in narration.event_lines(state, record.event)]
