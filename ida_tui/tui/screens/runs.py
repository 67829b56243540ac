"""Runs screen: table of past runs and of live runs in other processes."""

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

from ida_tui.analysis.comparison import MAX_RUNS, RUN_LABELS
from ida_tui.events.types import OFFLINE_JUDGE
from ida_tui.runs.catalog.index import list_runs
from ida_tui.runs.catalog.summary import RunSummary
from ida_tui.tui.actions import Scope, bindings_for
from ida_tui.tui.run_view.watched import EventTypes, RunView
from ida_tui.tui.screens.base import IdaScreen
from ida_tui.tui.widgets.filter_field import FilterField
from ida_tui.util.format import UNKNOWN, format_clock, format_cost, format_number
from ida_tui.util.paths import display_path
from ida_tui.util.secrets import environment_without_secrets
from ida_tui.util.text import one_line

STATUS_MARKS = {"done": "✓", "live": "●", "interrupted": "‖", "died": "✗"}
COLUMNS = ("", "when", "experiment", "model", "status", "steps", "reward", "cost", "time")
COMPACT_COLUMNS = ("", "when", "experiment", "status", "steps", "reward")

FIRST_ROWS, ROW_BATCH = 100, 500
"""Rows added at first, and after each pause."""
BATCH_PAUSE_S = 0.02
"""Seconds between two batches of rows."""


class RunsScreen(IdaScreen):
    """A table of runs. Enter opens the run under the cursor; marked runs can be compared."""

    SCOPE: ClassVar[Scope] = "runs"
    TITLE = "Runs"
    BINDINGS: ClassVar[list[BindingType]] = bindings_for(SCOPE)

    def __init__(self) -> None:
        super().__init__()
        self._runs: list[RunSummary] = []
        self._shown: list[RunSummary] = []
        self._marked: list[Path] = []
        """Directories of the marked runs, in the order of marking."""
        self._filter_text = ""
        self._columns: tuple[str, ...] = ()
        self._titles: tuple[str, ...] = ()

    def compose_body(self) -> ComposeResult:
        """The table, and below it details of the run under the cursor."""
        table: DataTable[Text] = DataTable(id="runs", cursor_type="row", classes="pane")
        table.border_title = "Past runs"
        table.border_subtitle = "enter: open · space: mark · c: compare · w: report"
        yield table
        yield Static(id="run-details", classes="pane", markup=False)
        yield FilterField(lambda: self.query_one("#runs"), id="runs-filter")

    def on_mount(self) -> None:
        self.query_one("#runs").focus()
        self._load_runs()

    def on_screen_resume(self) -> None:
        self._load_runs()

    def apply_size(self) -> None:
        """Redraw the table: its columns depend on the width."""
        self._show()

    def show_run(self, run_view: RunView | None, changed: EventTypes | None) -> None:
        """Read the list again when a run has ended."""
        if run_view is not None and changed and not run_view.in_progress:
            self._load_runs()

    @work(exclusive=True, group="read")
    async def _load_runs(self) -> None:
        self._runs = await asyncio.to_thread(list_runs, self.app.output_dir)
        self._show()

    # -- the table ----------------------------------------------------------------------------

    def _show(self) -> None:
        if not self.query("#run-details"):
            return  # not composed yet
        table: DataTable[Text] = self.query_one("#runs", DataTable)
        columns = COMPACT_COLUMNS if self.has_class("-compact") else COLUMNS
        selected = self._selected_run()
        self._shown = [run for run in self._runs if self._matches_filter(run)]
        titles = tuple(reward_title(self._shown) if name == "reward" else name for name in columns)
        table.clear(columns=titles != self._titles)
        if titles != self._titles:
            self._columns, self._titles = columns, titles
            for title in titles:
                table.add_column(title)
        now, here = self.app.clock(), self._live_run_id()
        cursor = self._shown.index(selected) if selected in self._shown else 0
        first = max(FIRST_ROWS, cursor + 1)
        self._add_rows(self._shown[:first], now, here)
        if cursor:
            table.move_cursor(row=cursor)
        self._add_remaining_rows(self._shown[first:], now, here)
        count = (
            f"{len(self._shown)}/{len(self._runs)} “{self._filter_text}”"
            if self._filter_text
            else ""
        )
        table.border_title = Content(f"Past runs {count}".rstrip())
        self._show_details()

    def _add_rows(self, runs: Sequence[RunSummary], now: datetime, own_run_id: str) -> None:
        table: DataTable[Text] = self.query_one("#runs", DataTable)
        for run in runs:
            cells = run_cells(run, now, is_own=run.run_id == own_run_id) | {
                "": self._mark_cell(run)
            }
            table.add_row(*(cells[name] for name in self._columns))

    @work(exclusive=True, group="rows")
    async def _add_remaining_rows(
        self, runs: Sequence[RunSummary], now: datetime, own_run_id: str
    ) -> None:
        """Add the remaining rows in batches, so that keys are handled in between."""
        for start in range(0, len(runs), ROW_BATCH):
            await asyncio.sleep(BATCH_PAUSE_S)
            self._add_rows(runs[start : start + ROW_BATCH], now, own_run_id)

    def _mark_cell(self, run: RunSummary) -> Text:
        """The letter of a marked run in the comparison."""
        marked = run.path in self._marked
        return Text(RUN_LABELS[self._marked.index(run.path)] if marked else " ", style="bold")

    def _matches_filter(self, run: RunSummary) -> bool:
        text = f"{run.experiment} {run.run_id} {run.model} {run.judge} {run.status}".casefold()
        return all(word in text for word in self._filter_text.casefold().split())

    def _selected_run(self) -> RunSummary | None:
        index = self.query_one("#runs", DataTable).cursor_row
        return self._shown[index] if 0 <= index < len(self._shown) else None

    def _live_run_id(self) -> str:
        run_view = self.app.run_view
        run = run_view.state.run if run_view is not None and run_view.is_live else None
        return Path(run.directory).name if run is not None else ""

    @on(DataTable.RowHighlighted)
    def _show_details(self) -> None:
        run = self._selected_run()
        about = self.query_one("#run-details", Static)
        if run is not None:
            path = display_path(run.path)
            judged = f" · judged by {run.judge}" if run.judge else ""
            details = run.problem or f"{run.model}{judged}"
            about.update(Content("\n".join(map(one_line, (path, details)))))
        elif self._filter_text:
            about.update(
                Content(f"No match for “{self._filter_text}”. Press Esc to clear the filter.")
            )
        else:
            folder = display_path(self.app.output_dir.absolute())
            about.update(Content(f"No runs in {one_line(folder)} yet. Press 1 to start one."))

    # -- actions ------------------------------------------------------------------------------

    @on(DataTable.RowSelected)
    async def _on_row_selected(self) -> None:
        await self.action_open()

    async def action_open(self) -> None:
        """Open the run under the cursor, or show the run of this process."""
        run = self._selected_run()
        if run is None:
            self.notify("There is no run to open.")
        elif run.run_id == self._live_run_id():
            await self.app.action_go("run")
        elif run.status == "unreadable":
            self.notify(f"Could not read this run: {run.problem}", severity="warning")
        else:
            self.query_one("#run-details", Static).update("Opening…")
            self.app.run_controller.open(run.path)

    def action_reload(self) -> None:
        """Read the run directories again."""
        self._load_runs()

    def action_mark(self) -> None:
        """Mark or unmark the run under the cursor, and move to the next."""
        run = self._selected_run()
        if run is None:
            self.notify("There is no run to mark.")
            return
        if run.path not in self._marked and len(self._marked) == MAX_RUNS:
            self.notify(f"You can compare at most {MAX_RUNS} runs. Press Space to unmark a run.")
            return
        previous = list(self._marked)
        if run.path in previous:
            self._marked.remove(run.path)
        else:
            self._marked.append(run.path)
        table: DataTable[Text] = self.query_one("#runs", DataTable)
        for index, shown in enumerate(self._shown[: table.row_count]):
            if shown.path in previous or shown.path in self._marked:
                table.update_cell_at(Coordinate(index, 0), self._mark_cell(shown))
        table.action_cursor_down()

    async def action_compare(self) -> None:
        """Compare the marked runs; a single marked run is compared with the run under the cursor."""
        selected, run = list(self._marked), self._selected_run()
        if len(selected) == 1 and run is not None and run.path not in selected:
            selected.append(run.path)
        if len(selected) < 2:
            self.notify("Mark at least two runs (Space), then press c.")
            return
        self.app.compared_runs = tuple(selected)
        await self.app.action_go("compare")

    def action_report(self) -> None:
        """Write the report of the run under the cursor, and show its path."""
        run = self._selected_run()
        if run is None:
            self.notify("There is no run to report on.")
            return
        self.notify(f"Writing the report of {run.run_id}…")
        self._write_report(run)

    @work(group="report")
    async def _write_report(self, run: RunSummary) -> None:
        # In a separate process: rendering takes seconds and would slow down a live run and the screen.
        command = (
            sys.executable,
            "-P",
            "-m",
            "ida_tui",
            "report",
            str(run.path.absolute()),
            "--json",
        )
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=environment_without_secrets()
        )
        out, err = await process.communicate()
        if process.returncode == 0:
            written = Path(json.loads(out)["html"])
            self.notify(f"Report: {display_path(written)}")
        else:
            message = err.decode(errors="replace").strip() or (
                f"could not write the report: exit code {process.returncode}"
            )
            self.notify("\n".join(message.splitlines()[-4:]), severity="warning")

    async def action_sweeps(self) -> None:
        """Show the latest sweep."""
        self.app.sweep_directory = None
        await self.app.action_go("sweep")

    async def action_chat(self) -> None:
        """Chat with the base model and the trained model of the run under the cursor."""
        run = self._selected_run()
        if run is None:
            self.notify("There is no run to chat with.")
            return
        await self.app.chat_controller.open(run.path)

    def action_filter(self) -> None:
        """Open the filter field."""
        self.query_one(FilterField).open(self._filter_text)

    @on(Input.Changed, "#runs-filter")
    def _on_filter_changed(self, event: Input.Changed) -> None:
        self._filter_text = event.value
        self._show()

    def handle_escape(self) -> bool:
        """Close the filter and show all runs."""
        field = self.query_one(FilterField)
        if not self._filter_text and not field.display:
            return False
        self._filter_text = ""
        field.close()
        self._show()
        return True


def reward_title(runs: Sequence[RunSummary]) -> str:
    """The name of the reward that all runs have; `reward` if they have different ones, or there are none."""
    names = {run.reward for run in runs if run.reward}
    return names.pop() if len(names) == 1 else "reward"


def run_cells(run: RunSummary, now: datetime, *, is_own: bool) -> dict[str, Text]:
    """The cells of a run, by column name.

    Args:
        run: summary of the run.
        now: the current time.
        is_own: whether this process is training the run.
    """
    status = "live (this app)" if is_own else run.status.replace("_", " ")
    style = "" if run.status == "done" else "bold"
    steps = f"{run.steps_done}/{run.steps}" if run.steps else ""
    cells = {
        "when": format_start_time(run.started_at, now),
        "experiment": run.experiment,
        "model": run.model,
        "steps": steps,
        "reward": _reward_change(run),
        "cost": "$0" if run.judge == OFFLINE_JUDGE else format_cost(run.cost),
        "time": format_clock(run.seconds),
    }
    out = {name: Text(one_line(text)) for name, text in cells.items()}
    out["status"] = Text(f"{STATUS_MARKS.get(run.status, '✗')} {status}", style=style)
    return out


def _reward_change(run: RunSummary) -> str:
    if run.reward_last is None:
        return UNKNOWN
    if run.reward_first is None:
        return f"→ {format_number(run.reward_last)}"
    return f"{format_number(run.reward_first)} → {format_number(run.reward_last)}"


def format_start_time(moment: str, now: datetime) -> str:
    """A past time relative to today, in the local time zone: `today 14:05`, `2026-11-27 04:36`."""
    try:
        time = datetime.fromisoformat(moment).astimezone()
    except (ValueError, OverflowError):
        return "unknown"
    days = (now.astimezone().date() - time.date()).days
    if days == 0:
        return f"today {time:%H:%M}"
    if days == 1:
        return f"yesterday {time:%H:%M}"
    return f"{time:%Y-%m-%d %H:%M}"
