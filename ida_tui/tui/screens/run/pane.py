"""Base class of the run screen's panes: a titled frame around text, redrawn only after a change."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from textual.content import Content
from textual.widgets import Static

from ida_tui.events.state import RunState
from ida_tui.tui.run_view.watched import EventTypes, RunView
from ida_tui.util.text import multiple_lines

if TYPE_CHECKING:
    from ida_tui.tui.app import IdaApp


class Pane(Static, can_focus=True):
    """One pane of the run screen.

    A subclass sets `NAME` and `KEY` and returns its content from `render_text`.
    """

    NAME: ClassVar[str]
    KEY: ClassVar[str]

    app: IdaApp

    def __init__(self) -> None:
        super().__init__(id=self.NAME.lower(), classes="pane", markup=False)
        self.border_title = f"{self.NAME} \\[{self.KEY}]"
        self._drawn: Content | None = None
        self._last: tuple[RunView, datetime] | None = None

    def on_resize(self) -> None:
        """Redraw: bars, columns, and plots depend on the size."""
        if self._last is not None:
            self.refresh_pane(*self._last, None)

    def refresh_pane(self, run_view: RunView, now: datetime, changed: EventTypes | None) -> None:
        """Update the pane.

        Args:
            run_view: the run.
            now: the current time, UTC.
            changed: types of the events since the last update; None if anything may have changed.
        """
        self._last = run_view, now
        content = self.render_text(run_view.displayed_state, run_view, now)
        # The replaced control characters keep their positions, and so do the style spans.
        content = Content(multiple_lines(content.plain), list(content.spans))
        if content != self._drawn:
            self._drawn = content
            self.update(content, layout=False)

    def render_text(self, state: RunState, run_view: RunView, now: datetime) -> Content:
        """The content of the pane; `state` is the viewed state, which may be an earlier one."""
        raise NotImplementedError

    @property
    def available_size(self) -> tuple[int, int]:
        """Columns and rows inside the frame."""
        return self.content_size.width, self.content_size.height


def seconds_since(moment: str, now: datetime) -> float:
    """Seconds from a record's time until now; 0 if the time is missing."""
    try:
        return max(0.0, (now - datetime.fromisoformat(moment)).total_seconds())
    except (ValueError, TypeError):
        return 0.0  # a replay does not parse the times of most records


def join_lines(*parts: Content | str) -> Content:
    """Join the parts with line breaks."""
    return Content("\n").join(
        part if isinstance(part, Content) else Content(part) for part in parts
    )
