"""What the run has said, newest at the bottom."""

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
"""Marks of the lines that stand out."""


class LogPane(Pane):
    """The lines of the command line, as they come; up and down look further back.

    A scrolling widget would lay the whole screen out again with every line; this one draws as many lines as
    it has room for.
    """

    NAME, KEY = "Log", "L"

    def __init__(self) -> None:
        super().__init__()
        self._up = 0
        """How many of the newest lines are below the last one that is drawn."""
        self._of: tuple[int, ...] = ()
        self._lines: list[str] = []

    def text(self, state: RunState, watched: Watched, now: datetime) -> Content:
        """As many lines as there is room for."""
        newest = state.recent[-1].seq if state.recent else -1
        of = (id(watched), newest, len(state.recent))
        if of != self._of:
            lines = [line for record in state.recent for line in log_lines(state, record)]
            if self._up and of[0] == (self._of or of)[0]:
                # Whoever looks back stays where they are while lines come in below.
                self._up = max(0, self._up + len(lines) - len(self._lines))
            self._of, self._lines = of, lines
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
        """What the frame says while the newest line is in sight."""
        self._hint = text
        if not self._up:
            self.border_subtitle = text

    def _scroll(self, lines: int) -> None:
        self._up = max(0, self._up + lines)
        self.on_resize()  # draws it again

    def action_scroll_up(self) -> None:
        """One line further back."""
        self._scroll(1)

    def action_scroll_down(self) -> None:
        """One line on."""
        self._scroll(-1)

    def action_scroll_home(self) -> None:
        """To the first line that is kept."""
        self._scroll(len(self._lines))

    def action_scroll_end(self) -> None:
        """Back to the newest line."""
        self._scroll(-self._up)


def log_lines(state: RunState, record: ev.Record) -> list[str]:
    """The lines of one record, without what a terminal would act on."""
    return [printable(line) for line in narration.lines(state, record.event)]
