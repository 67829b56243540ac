"""What every pane is: a titled frame around a text that is redrawn only when it has changed."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from textual.content import Content
from textual.widgets import Static

from ida_tui.events.state import RunState
from ida_tui.tui.run_view.watched import Changed, Watched
from ida_tui.util.text import printable_text


class Pane(Static, can_focus=True):
    """One part of the run screen.

    A subclass sets `NAME` and `KEY` and says in `text` what it shows.
    """

    NAME: ClassVar[str]
    KEY: ClassVar[str]

    def __init__(self) -> None:
        super().__init__(id=self.NAME.lower(), classes="pane", markup=False)
        self.border_title = f"{self.NAME} \\[{self.KEY}]"
        self._drawn: Content | None = None
        self._last: tuple[Watched, datetime] | None = None

    def on_resize(self) -> None:
        """Bars, columns and plots are drawn to measure."""
        if self._last is not None:
            self.show(*self._last, None)

    def show(self, watched: Watched, now: datetime, changed: Changed | None) -> None:
        """Bring the pane up to date.

        Args:
            watched: the run.
            now: the present, UTC.
            changed: types of the events since the last time; None if anything may have changed.
        """
        self._last = watched, now
        text = harmless(self.text(watched.shown, watched, now))
        if text != self._drawn:
            self._drawn = text
            self.update(text, layout=False)

    def text(self, state: RunState, watched: Watched, now: datetime) -> Content:
        """What the pane says; `state` is what is looked at, perhaps an earlier one."""
        raise NotImplementedError

    @property
    def room(self) -> tuple[int, int]:
        """Columns and rows inside the frame."""
        return self.content_size.width, self.content_size.height


def harmless(content: Content) -> Content:
    """The same, without the characters that a terminal acts on; styles stay in their places."""
    shown = printable_text(content.plain)
    return content if shown == content.plain else Content(shown, list(content.spans))


def seconds_since(moment: str, now: datetime) -> float:
    """Seconds from a record's time to the present; 0 where there is none."""
    try:
        return max(0.0, (now - datetime.fromisoformat(moment)).total_seconds())
    except (ValueError, TypeError):
        return 0.0  # a replay takes the times of most lines as they are written


def lines(*parts: Content | str) -> Content:
    """Rows of text, one below the other."""
    return Content("\n").join(
        part if isinstance(part, Content) else Content(part) for part in parts
    )
