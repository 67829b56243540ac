"""Sweep screen: results table and runs of a sweep, read from disk while it is in progress."""

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
from ida_tui.sweep import directory, text
from ida_tui.sweep.results import SweepTable, build_table
from ida_tui.sweep.status import SweepReader, TrialStatus
from ida_tui.tui.actions import Scope, bindings_for
from ida_tui.tui.screens.base import IdaScreen
from ida_tui.util.format import format_number
from ida_tui.util.text import one_line

POLL_SECONDS = 1.0
"""Seconds between two reads of the sweep while the screen is active."""
COLUMNS = ("", "run", "reward", "status", "id")
COMPACT_COLUMNS = COLUMNS[:-1]
NO_SWEEP_TEXT = (
    "No sweeps yet. Start one with: "
    "ida-tui sweep quickstart training.learning_rate=1e-3,2e-3 seed=0,1,2"
)


class SweepScreen(IdaScreen):
    """Results by setting at the top, runs at the bottom; Enter opens the run under the cursor."""

    SCOPE: ClassVar[Scope] = "sweep"
    TITLE = "Sweep"
    BINDINGS: ClassVar[list[BindingType]] = bindings_for(SCOPE)

    def __init__(self) -> None:
        super().__init__()
        self._reader: SweepReader | None = None
        self._results: SweepTable | None = None
        self._is_running = False
        """Whether a process is running the sweep."""
        self._reading = False
        self._columns: tuple[str, ...] = ()
        self._rows: list[tuple[str, ...]] = []

    def compose_body(self) -> ComposeResult:
        """The results table, then all runs."""
        yield Static(NO_SWEEP_TEXT, id="no-sweep", markup=False)
        with ScrollableContainer(id="sweep-results", classes="pane", can_focus=True) as pane:
            pane.border_title = "Settings"
            yield Static(id="sweep-table", markup=False)
            yield Static(id="sweep-summary", markup=False)
        runs: DataTable[Text] = DataTable(id="sweep-runs", cursor_type="row", classes="pane")
        runs.border_title = "Runs"
        runs.border_subtitle = "enter: open"
        yield runs

    def on_mount(self) -> None:
        self._show_sweep(False)
        self.set_interval(POLL_SECONDS, self._poll, name="sweep")

    def on_screen_resume(self) -> None:
        self._poll()

    def apply_size(self) -> None:
        """Redraw the table: its columns depend on the width."""
        self._show()

    def _poll(self) -> None:
        """Read the sweep again, unless a read is in progress or the screen is in the background."""
        if self._reading or self.app.screen is not self:
            return
        self._reading = True
        self._load_sweep(self.app.sweep_directory)

    @work(group="read")
    async def _load_sweep(self, path: Path | None) -> None:
        try:
            if path is None:
                path = next(iter(directory.list_directories(self.app.output_dir)), None)
            if path is None:
                self._reader = self._results = None
            else:
                self._results = await asyncio.to_thread(self._load_results, path)
        except UsageError as error:
            self._reader = self._results = None
            self.query_one("#no-sweep", Static).update(Content(one_line(error.title)))
        finally:
            self._reading = False
        self._show()

    def _load_results(self, path: Path) -> SweepTable:
        """The current table of the sweep; reads the disk."""
        if self._reader is None or self._reader.sweep.path != path.resolve():
            self._reader = SweepReader(directory.read(path))
        elif self._reader.sweep.trials is not None:
            # A search gets its combinations one by one.
            self._reader.sweep = directory.read(path)
        self._is_running = owner.is_alive(RunDirectory(path))
        return build_table(self._reader.sweep, self._reader.read_all())

    # -- display ------------------------------------------------------------------------------

    def _show_sweep(self, exists: bool) -> None:
        self.query_one("#no-sweep").display = not exists
        for name in ("#sweep-results", "#sweep-runs"):
            self.query_one(name).display = exists

    def _show(self) -> None:
        if not self.query("#sweep-runs"):
            return  # not composed yet
        self._show_sweep(self._results is not None)
        if self._results is None:
            return
        results, compact = self._results, self.has_class("-compact")
        pane = self.query_one("#sweep-results")
        pane.border_title = Content(one_line(self._heading(results)))
        self.query_one("#sweep-table", Static).update(
            Content("\n".join(text.settings_table(results, compact=compact)))
        )
        summary = [*text.conclusion(results), *([] if compact else text.table_notes(results))]
        self.query_one("#sweep-summary", Static).update(Content("\n".join(map(one_line, summary))))
        names = COMPACT_COLUMNS if compact else COLUMNS
        columns = tuple(results.reward_name if name == "reward" else name for name in names)
        rows = [trial_cells(results, status)[: len(columns)] for status in results.trials]
        self._show_runs(columns, rows)

    def _show_runs(self, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        """Update the table of runs if it has changed."""
        if (columns, rows) == (self._columns, self._rows):
            return
        runs: DataTable[Text] = self.query_one("#sweep-runs", DataTable)
        cursor, self._rows = runs.cursor_row, rows
        runs.clear(columns=columns != self._columns)
        if columns != self._columns:
            first, self._columns = not self._columns, columns
            runs.add_columns(*columns)
            if first:
                runs.focus()
        for row in rows:
            runs.add_row(*(Text(one_line(cell)) for cell in row))
        runs.move_cursor(row=cursor)

    def _heading(self, results: SweepTable) -> str:
        finished = sum(status.is_finished for status in results.trials)
        progress = f"{finished} of {results.sweep.total_runs} runs finished"
        if finished < results.sweep.total_runs:
            progress += " · running" if self._is_running else " · not running"
        return f"{results.sweep.experiment} {results.sweep.sweep_id}: {progress}"

    # -- actions ------------------------------------------------------------------------------

    @on(DataTable.RowSelected)
    def _on_row_selected(self) -> None:
        self.action_open()

    def action_open(self) -> None:
        """Open the run under the cursor, or follow it if it is live."""
        index = self.query_one("#sweep-runs", DataTable).cursor_row
        trials = self._results.trials if self._results is not None else ()
        status = trials[index] if 0 <= index < len(trials) else None
        if status is None or status.run is None:
            self.notify("This run has not started yet.")
        elif status.stage == "unreadable":
            self.notify(f"Could not read this run: {status.problem}", severity="warning")
        else:
            self.app.run_controller.open(status.run)

    def action_next_sweep(self) -> None:
        """Show an older sweep; after the oldest, the newest."""
        self._change_sweep(1)

    def action_previous_sweep(self) -> None:
        """Show a newer sweep."""
        self._change_sweep(-1)

    def _change_sweep(self, direction: int) -> None:
        sweeps = [path.resolve() for path in directory.list_directories(self.app.output_dir)]
        if self._results is None or len(sweeps) < 2:
            self.notify("There is no other sweep.")
            return
        current = self._results.sweep.path
        index = sweeps.index(current) if current in sweeps else -direction
        self.app.sweep_directory = sweeps[(index + direction) % len(sweeps)]
        self._poll()

    def handle_escape(self) -> bool:
        """Return to the list of runs."""
        self.app.call_later(self.app.action_go, "runs")
        return True


def trial_cells(results: SweepTable, status: TrialStatus) -> tuple[str, ...]:
    """The cells of a run, in the order of `COLUMNS`."""
    return (
        text.stage_mark(status),
        text.trial_label(results, status),
        format_number(status.reward),
        text.stage_text(status),
        "" if status.run is None else status.run.name,
    )
