"""The first line of every screen: where one is, and which run is being watched."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from ida_tui.tui.run_view.watched import Watched
from ida_tui.util.text import printable

SCREENS = ("Launch", "Run", "Completions", "Runs")


class TitleBar(Static):
    """`ida-tui  1 Launch  2 Run …` on the left, the run and how it is doing on the right."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title
        self._drawn: Content | None = None

    def on_mount(self) -> None:
        self.show_run(None, held=False)

    def show_run(self, watched: Watched | None, *, held: bool) -> None:
        """Bring the line up to date."""
        tabs = Content.assemble(
            ("ida-tui ", "bold"),
            *(
                (f" {number} {name} ", "bold reverse" if name == self._title else "")
                for number, name in enumerate(SCREENS, start=1)
            ),
            "  ",
        )
        room = self.app.size.width - 2 - len(tabs)
        text = tabs + Content(printable(_about(watched, held, room)))
        if text != self._drawn:
            self._drawn = text
            self.update(text, layout=False)


def _about(watched: Watched | None, held: bool, room: int) -> str:
    """The run and how it is doing, as much of it as there is room for."""
    if watched is None:
        return ""
    run, how = watched.state.run, status(watched) + (" · HELD" if held else "")
    longest = f"{run.experiment}/{run.run_id} · {how}" if run else f"starting · {how}"
    for text in (longest, f"{run.experiment} · {how}" if run else how):
        if len(text) <= room:
            return text
    return how


def status(watched: Watched) -> str:
    """How a run is doing, in a word or two."""
    state = watched.state
    if watched.refusal is not None:
        return "refused"
    if watched.handing_over:
        return "detaching"
    if state.ended is not None:
        return state.ended.status.replace("_", " ")
    if watched.stop_asked:
        return "stopping"
    if state.pause is not None:
        return "paused"
    if watched.source.finished:
        return "died"
    return "live" if watched.source.kind == "live" else "live elsewhere"
