"""The sweep screen: its table as it stands, and its runs; read from the disk, also while they are trained."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import ScrollableContainer
from textual.content import Content
from textual.widgets import DataTable, Static

from ida_tui.errors import UsageError
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.sweep import directory as folder
from ida_tui.sweep import text as words
from ida_tui.sweep.results import Table, table
from ida_tui.sweep.status import Reader, Standing
from ida_tui.tui.actions import Scope, bindings
from ida_tui.tui.screens.base import IdaScreen
from ida_tui.util.text import printable

LOOK_S = 1.0
"""How often the runs are looked at while the screen is in front."""
COLUMNS = ("", "run", "R_IDA", "how it stands", "id")
COMPACT = COLUMNS[:-1]
NOTHING = "No sweep here yet.  ida-tui sweep quickstart training.learning_rate=1e-3,2e-3 seed=0,1,2"


class SweepScreen(IdaScreen):
    """Settings above, runs below; enter opens or follows the run under the cursor."""

    SCOPE: ClassVar[Scope] = "sweep"
    TITLE = "Sweep"
    BINDINGS: ClassVar[list[BindingType]] = bindings(SCOPE)

    def __init__(self) -> None:
        super().__init__()
        self._reader: Reader | None = None
        self._found: Table | None = None
        self._alive = False
        """Whether a process carries the sweep out."""
        self._reading = False
        self._columns: tuple[str, ...] = ()
        self._rows: list[tuple[str, ...]] = []

    def compose_body(self) -> ComposeResult:
        """What was found, then every run."""
        yield Static(NOTHING, id="no-sweep", markup=False)
        with ScrollableContainer(id="sweep-found", classes="pane", can_focus=True) as found:
            found.border_title = "Settings"
            yield Static(id="sweep-table", markup=False)
            yield Static(id="sweep-said", markup=False)
        runs: DataTable[Text] = DataTable(id="sweep-runs", cursor_type="row", classes="pane")
        runs.border_title = "Runs"
        runs.border_subtitle = "enter opens or follows"
        yield runs

    def on_mount(self) -> None:
        self._have_one(False)
        self.set_interval(LOOK_S, self._look, name="sweep")

    def on_screen_resume(self) -> None:
        self._look()

    def fit(self) -> None:
        """The table's columns follow the width."""
        self._show()

    def _look(self) -> None:
        """Read what has come; one reading at a time, and none for a screen that nobody sees."""
        if self._reading or self.app.screen is not self:
            return
        self._reading = True
        self._read(self.app.swept)

    @work(group="read")
    async def _read(self, path: Path | None) -> None:
        try:
            if path is None:
                path = next(iter(folder.listed(self.app.output_dir)), None)
            if path is None:
                self._reader = self._found = None
            else:
                self._found = await asyncio.to_thread(self._table, path)
        except UsageError as error:
            self._reader = self._found = None
            self.query_one("#no-sweep", Static).update(Content(printable(error.title)))
        finally:
            self._reading = False
        self._show()

    def _table(self, path: Path) -> Table:
        """The sweep as it stands; reads the disk."""
        if self._reader is None or self._reader.sweep.path != path.resolve():
            self._reader = Reader(folder.read(path))
        self._alive = owner.alive(RunDirectory(path))
        return table(self._reader.sweep, self._reader.all())

    # -- what is shown ------------------------------------------------------------------------

    def _have_one(self, there: bool) -> None:
        self.query_one("#no-sweep").display = not there
        for name in ("#sweep-found", "#sweep-runs"):
            self.query_one(name).display = there

    def _show(self) -> None:
        if not self.query("#sweep-runs"):
            return  # still being made
        self._have_one(self._found is not None)
        if self._found is None:
            return
        found, compact = self._found, self.has_class("-compact")
        pane = self.query_one("#sweep-found")
        pane.border_title = Content(printable(self._heading(found)))
        self.query_one("#sweep-table", Static).update(
            Content("\n".join(words.settings_table(found, compact=compact)))
        )
        said = [*words.verdict(found), *([] if compact else words.NOTES)]
        self.query_one("#sweep-said", Static).update(Content("\n".join(map(printable, said))))
        columns = COMPACT if compact else COLUMNS
        self._show_runs(columns, [cells(found, one)[: len(columns)] for one in found.standings])

    def _show_runs(self, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        """The lower table; one that has not changed is left as it is."""
        if (columns, rows) == (self._columns, self._rows):
            return
        runs: DataTable[Text] = self.query_one("#sweep-runs", DataTable)
        at, self._rows = runs.cursor_row, rows
        runs.clear(columns=columns != self._columns)
        if columns != self._columns:
            first, self._columns = not self._columns, columns
            runs.add_columns(*columns)
            if first:
                runs.focus()
        for row in rows:
            runs.add_row(*(Text(printable(cell)) for cell in row))
        runs.move_cursor(row=at)

    def _heading(self, found: Table) -> str:
        over = sum(one.over for one in found.standings)
        how = f"{over} of {len(found.standings)} runs over"
        if over < len(found.standings):
            how += ", carried out now" if self._alive else ", nobody carries it out now"
        return f"{found.sweep.experiment} {found.sweep.sweep_id}: {how}"

    # -- actions ------------------------------------------------------------------------------

    @on(DataTable.RowSelected)
    def _selected(self) -> None:
        self.action_open()

    def action_open(self) -> None:
        """Open the run under the cursor, or follow it while it is trained."""
        at = self.query_one("#sweep-runs", DataTable).cursor_row
        standings = self._found.standings if self._found is not None else ()
        one = standings[at] if 0 <= at < len(standings) else None
        if one is None or one.run is None:
            self.notify("That run has not begun.")
        elif one.stage == "unreadable":
            self.notify(f"It cannot be read: {one.problem}", severity="warning")
        else:
            self.app.open_run(one.run)

    def action_next_sweep(self) -> None:
        """Show an older sweep; after the oldest, the newest."""
        self._turn(1)

    def action_previous_sweep(self) -> None:
        """Show a newer sweep."""
        self._turn(-1)

    def _turn(self, direction: int) -> None:
        there = [path.resolve() for path in folder.listed(self.app.output_dir)]
        if self._found is None or len(there) < 2:
            self.notify("There is no other sweep here.")
            return
        now = self._found.sweep.path
        at = there.index(now) if now in there else -direction
        self.app.swept = there[(at + direction) % len(there)]
        self._look()

    def leave(self) -> bool:
        """Back to the list of runs."""
        self.app.call_later(self.app.action_go, "runs")
        return True


def cells(found: Table, one: Standing) -> tuple[str, ...]:
    """A run as `COLUMNS` names them."""
    return (
        words.mark(one),
        words.called(found, one),
        words.UNKNOWN if one.r_ida is None else f"{one.r_ida:.3f}",
        words.stage(one),
        "" if one.run is None else one.run.name,
    )
