"""Title bar of every screen: the screen names, the displayed run, and its status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content
from textual.widgets import Static

from ida_tui.util.text import one_line

if TYPE_CHECKING:
    from ida_tui.tui.run_view.watched import RunView

SCREEN_NAMES = ("Launch", "Run", "Completions", "Runs")


class TitleBar(Static):
    """Screen names on the left (`ida-tui  1 Launch  2 Run …`), the run and its status on the right."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title
        self._drawn: Content | None = None

    def on_mount(self) -> None:
        self.show_run(None, frozen=False)

    def show_run(self, run_view: RunView | None, *, frozen: bool) -> None:
        """Update the bar."""
        tabs = Content.assemble(
            ("ida-tui ", "bold"),
            *(
                (f" {number} {name} ", "bold reverse" if name == self._title else "")
                for number, name in enumerate(SCREEN_NAMES, start=1)
            ),
            "  ",
        )
        room = self.app.size.width - 2 - len(tabs)
        text = tabs + Content(one_line(_run_text(run_view, frozen, room)))
        if text != self._drawn:
            self._drawn = text
            self.update(text, layout=False)


def _run_text(run_view: RunView | None, frozen: bool, width: int) -> str:
    """The run and its status, shortened to `width` columns."""
    if run_view is None:
        return ""
    run, status = run_view.state.run, ("FROZEN · " if frozen else "") + run_status(run_view)
    full = f"{run.experiment}/{run.run_id} · {status}" if run else f"starting · {status}"
    for text in (full, f"{run.experiment} · {status}" if run else status):
        if len(text) <= width:
            return text
    return status


def run_status(run_view: RunView) -> str:
    """The status of a run in one to three words."""
    state = run_view.state
    if run_view.error is not None:
        return "failed to start"
    if run_view.handing_over:
        return "moving to background"
    if state.ended is not None:
        return state.ended.status.replace("_", " ")
    if run_view.stop_requested:
        return "stopping"
    if state.pause is not None:
        return "paused"
    if run_view.source.finished:
        return "died"
    return "live" if run_view.source.kind == "live" else "live (other process)"
