"""The first line of every screen: where one is, and which run is being watched."""

from __future__ import annotations

from textual.widgets import Static

from ida_tui.tui.watched import Watched

SCREENS = ("Launch", "Run", "Completions", "Runs")


class TitleBar(Static):
    """`ida-tui  1 Launch  2 Run …` on the left, the run and how it is doing on the right."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title
        self._text = ""

    def on_mount(self) -> None:
        self.show_run(None, held=False)

    def show_run(self, watched: Watched | None, *, held: bool) -> None:
        """Bring the line up to date."""
        tabs = "  ".join(
            f"[b reverse] {number} {name} [/]" if name == self._title else f" {number} {name} "
            for number, name in enumerate(SCREENS, start=1)
        )
        text = f"[b]ida-tui[/]  {tabs}   {_about(watched, held)}"
        if text != self._text:
            self._text = text
            self.update(text)


def _about(watched: Watched | None, held: bool) -> str:
    if watched is None:
        return ""
    run = watched.state.run
    name = f"{run.experiment}/{run.run_id}" if run else "starting"
    return f"{name.replace('[', chr(92) + '[')} · {status(watched)}{' · HELD' if held else ''}"


def status(watched: Watched) -> str:
    """How a run is doing, in a word or two."""
    state = watched.state
    if watched.refusal is not None:
        return "refused"
    if state.ended is not None:
        return state.ended.status.replace("_", " ")
    if watched.stop_asked:
        return "stopping"
    if state.paused:
        return "paused"
    return {"live": "live", "attached": "live elsewhere", "replay": "died"}[watched.source.kind]
