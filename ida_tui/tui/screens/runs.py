"""The runs screen: what was trained before, and what another process trains now."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.coordinate import Coordinate
from textual.widgets import DataTable, Input, Static

from ida_tui.analysis.comparison import LETTERS, MOST
from ida_tui.events.types import OFFLINE_JUDGE
from ida_tui.runs.catalog.index import listed
from ida_tui.runs.catalog.summary import RunSummary
from ida_tui.tui.actions import Scope, bindings
from ida_tui.tui.run_view.watched import Changed, Watched
from ida_tui.tui.screens.base import IdaScreen
from ida_tui.tui.widgets import format as words
from ida_tui.util.paths import shown_path
from ida_tui.util.text import printable

MARKS = {"done": "✓", "live": "●", "interrupted": "‖", "died": "✗"}
COLUMNS = ("", "when", "experiment", "model", "status", "steps", "R_IDA", "cost", "time")
COMPACT = ("", "when", "experiment", "status", "steps", "R_IDA")

AT_ONCE, BATCH = 100, 500
"""Rows that are added at first, and then after each pause."""
PAUSE_S = 0.02


class RunsScreen(IdaScreen):
    """A table of runs; enter opens the one under the cursor, and marked ones are compared."""

    SCOPE: ClassVar[Scope] = "runs"
    TITLE = "Runs"
    BINDINGS: ClassVar[list[BindingType]] = bindings(SCOPE)

    def __init__(self) -> None:
        super().__init__()
        self._runs: list[RunSummary] = []
        self._shown: list[RunSummary] = []
        self._marked: list[Path] = []
        """What `c` compares, in the order in which it was marked."""
        self._letters = ""
        self._columns: tuple[str, ...] = ()

    def compose_body(self) -> ComposeResult:
        """The table, and below it what is known of the run under the cursor."""
        table: DataTable[Text] = DataTable(id="runs", cursor_type="row", classes="pane")
        table.border_title = "Past runs"
        table.border_subtitle = "enter opens, space marks, c compares, w reports"
        yield table
        yield Static(id="run-about", classes="pane", markup=False)
        yield Input(id="runs-filter", placeholder="letters to look for", select_on_focus=False)

    def on_mount(self) -> None:
        self.query_one("#runs-filter").display = False
        self.query_one("#runs").focus()
        self._read()

    def on_screen_resume(self) -> None:
        self._read()

    def fit(self) -> None:
        """The columns follow the width."""
        self._show()

    def show_run(self, watched: Watched | None, changed: Changed | None) -> None:
        """A run that ends is another line in the list."""
        if watched is not None and changed and not watched.going_on:
            self._read()

    @work(exclusive=True, group="read")
    async def _read(self) -> None:
        self._runs = await asyncio.to_thread(listed, self.app.output_dir)
        self._show()

    # -- the table ----------------------------------------------------------------------------

    def _show(self) -> None:
        if not self.query("#run-about"):
            return  # still being made
        table: DataTable[Text] = self.query_one("#runs", DataTable)
        columns = COMPACT if self.has_class("-compact") else COLUMNS
        at = self._under_the_cursor()
        table.clear(columns=columns != self._columns)
        if columns != self._columns:
            self._columns = columns
            for name in columns:
                table.add_column(name)
        now, here = self.app.clock(), self._own_run_id()
        self._shown = [run for run in self._runs if self._matches(run)]
        cursor = self._shown.index(at) if at in self._shown else 0
        first = max(AT_ONCE, cursor + 1)
        self._add(self._shown[:first], now, here)
        if cursor:
            table.move_cursor(row=cursor)
        self._add_the_rest(self._shown[first:], now, here)
        count = f"{len(self._shown)}/{len(self._runs)} “{self._letters}”" if self._letters else ""
        table.border_title = Content(f"Past runs {count}".rstrip())
        self._show_about()

    def _add(self, runs: Sequence[RunSummary], now: datetime, here: str) -> None:
        table: DataTable[Text] = self.query_one("#runs", DataTable)
        for run in runs:
            cells = row(run, now, here=run.run_id == here) | {"": self._mark(run)}
            table.add_row(*(cells[name] for name in self._columns))

    @work(exclusive=True, group="rows")
    async def _add_the_rest(self, runs: Sequence[RunSummary], now: datetime, here: str) -> None:
        """Thousands of rows, a few at a time: keys come first."""
        for start in range(0, len(runs), BATCH):
            await asyncio.sleep(PAUSE_S)
            self._add(runs[start : start + BATCH], now, here)

    def _mark(self, run: RunSummary) -> Text:
        """The letter by which a marked run goes in the comparison."""
        marked = run.path in self._marked
        return Text(LETTERS[self._marked.index(run.path)] if marked else " ", style="bold")

    def _matches(self, run: RunSummary) -> bool:
        said = f"{run.experiment} {run.run_id} {run.model} {run.judge} {run.status}".casefold()
        return all(word in said for word in self._letters.casefold().split())

    def _under_the_cursor(self) -> RunSummary | None:
        at = self.query_one("#runs", DataTable).cursor_row
        return self._shown[at] if 0 <= at < len(self._shown) else None

    def _own_run_id(self) -> str:
        watched = self.app.watched
        run = watched.state.run if watched is not None and watched.live else None
        return run.run_id if run is not None else ""

    @on(DataTable.RowHighlighted)
    def _show_about(self) -> None:
        run = self._under_the_cursor()
        about = self.query_one("#run-about", Static)
        if run is not None:
            where = shown_path(run.path)
            second = run.problem or f"{run.model} · judged by {run.judge}"
            about.update(Content("\n".join(map(printable, (where, second)))))
        elif self._letters:
            about.update(Content(f"No run has “{self._letters}”. Escape shows them all."))
        else:
            folder = shown_path(self.app.output_dir.absolute())
            about.update(
                Content(f"No runs in {printable(folder)} yet. 1 leads to the launch screen.")
            )

    # -- actions ------------------------------------------------------------------------------

    @on(DataTable.RowSelected)
    async def _selected(self) -> None:
        await self.action_open()

    async def action_open(self) -> None:
        """Open the run under the cursor; the run of this process is on its screen already."""
        run = self._under_the_cursor()
        if run is None:
            self.notify("There is no run to open.")
        elif run.run_id == self._own_run_id():
            await self.app.action_go("run")
        elif run.status == "unreadable":
            self.notify(f"It cannot be read: {run.problem}", severity="warning")
        else:
            self.query_one("#run-about", Static).update("Opening …")
            self.app.open_run(run.path)

    def action_reload(self) -> None:
        """Read the folders again."""
        self._read()

    def action_mark(self) -> None:
        """Mark the run under the cursor, or take its mark away, and go on to the next."""
        run = self._under_the_cursor()
        if run is None:
            self.notify("There is no run to mark.")
            return
        if run.path not in self._marked and len(self._marked) == MOST:
            self.notify(f"At most {MOST} runs are compared at once. Space takes a mark away.")
            return
        before = list(self._marked)
        if run.path in before:
            self._marked.remove(run.path)
        else:
            self._marked.append(run.path)
        table: DataTable[Text] = self.query_one("#runs", DataTable)
        for at, shown in enumerate(self._shown[: table.row_count]):
            if shown.path in before or shown.path in self._marked:
                table.update_cell_at(Coordinate(at, 0), self._mark(shown))
        table.action_cursor_down()

    async def action_compare(self) -> None:
        """Put the marked runs side by side; a single one is held against the one under the cursor."""
        chosen, run = list(self._marked), self._under_the_cursor()
        if len(chosen) == 1 and run is not None and run.path not in chosen:
            chosen.append(run.path)
        if len(chosen) < 2:
            self.notify("Mark two or more runs first: space marks the one under the cursor.")
            return
        self.app.compared = tuple(chosen)
        await self.app.action_go("compare")

    def action_report(self) -> None:
        """Write the report of the run under the cursor, and say where it lies."""
        run = self._under_the_cursor()
        if run is None:
            self.notify("There is no run to report on.")
            return
        self.notify(f"Writing the report of {run.run_id} …")
        self._write_report(run)

    @work(group="report")
    async def _write_report(self, run: RunSummary) -> None:
        # In a process of its own: drawing takes seconds, which a live run and the screen would feel.
        command = (sys.executable, "-m", "ida_tui", "report", str(run.path.absolute()), "--json")
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
        )
        out, err = await process.communicate()
        if process.returncode == 0:
            written = Path(json.loads(out)["html"])
            self.notify(f"Report: {shown_path(written)}")
        else:
            said = err.decode(errors="replace").strip() or f"it ended with {process.returncode}"
            self.notify("\n".join(said.splitlines()[-4:]), severity="warning")

    async def action_sweeps(self) -> None:
        """Show the newest sweep."""
        self.app.swept = None
        await self.app.action_go("sweep")

    async def action_chat(self) -> None:
        """Talk to the model of the run under the cursor, and to what it was before."""
        run = self._under_the_cursor()
        if run is None:
            self.notify("There is no run to talk to.")
            return
        await self.app.open_chat(run.path)

    def action_filter(self) -> None:
        """Type letters; the table shows the runs that have them."""
        field = self.query_one("#runs-filter", Input)
        field.value = self._letters
        field.display = True
        field.focus()

    @on(Input.Changed, "#runs-filter")
    def _typed(self, event: Input.Changed) -> None:
        self._letters = event.value
        self._show()

    @on(Input.Submitted, "#runs-filter")
    def _kept(self) -> None:
        self.query_one("#runs-filter").display = False
        self.query_one("#runs").focus()

    def leave(self) -> bool:
        """Leave the filter, and show all runs again."""
        if not self._letters and not self.query_one("#runs-filter").display:
            return False
        self._letters = ""
        self._kept()
        self._show()
        return True


def row(run: RunSummary, now: datetime, *, here: bool) -> dict[str, Text]:
    """A run as cells, by the names of the columns.

    Args:
        run: what is known of it.
        now: the present.
        here: whether this process trains it.
    """
    status = "live, here" if here else run.status.replace("_", " ")
    style = "" if run.status == "done" else "bold"
    steps = f"{run.steps_done}/{run.steps}" if run.steps else ""
    cells = {
        "when": when(run.started_at, now),
        "experiment": run.experiment,
        "model": run.model,
        "steps": steps,
        "R_IDA": _change(run),
        "cost": "none" if run.judge == OFFLINE_JUDGE else words.money(run.cost),
        "time": words.duration(run.seconds) if run.seconds is not None else words.UNKNOWN,
    }
    out = {name: Text(printable(text)) for name, text in cells.items()}
    out["status"] = Text(f"{MARKS.get(run.status, '✗')} {status}", style=style)
    return out


def _change(run: RunSummary) -> str:
    if run.r_ida_last is None:
        return words.UNKNOWN
    if run.r_ida_first is None:
        return f"→ {run.r_ida_last:.3f}"
    return f"{run.r_ida_first:.3f} → {run.r_ida_last:.3f}"


def when(moment: str, now: datetime) -> str:
    """A time of the past as a person says it, in the time zone of the machine."""
    try:
        then = datetime.fromisoformat(moment).astimezone()
    except (ValueError, OverflowError):
        return "not known"
    days = (now.astimezone().date() - then.date()).days
    if days == 0:
        return f"today {then:%H:%M}"
    if days == 1:
        return f"yesterday {then:%H:%M}"
    return f"{then:%Y-%m-%d %H:%M}"
