"""Completions screen: every completion of a run with its scores and the judge's reason, step by step."""

from __future__ import annotations

import asyncio
from typing import ClassVar, NamedTuple

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Input, Static

from ida_tui.errors import IdaError
from ida_tui.events import types as ev
from ida_tui.runs.store.completions import CompletionStore
from ida_tui.tui.actions import Scope, bindings_for
from ida_tui.tui.run_view.watched import EventTypes, RunView
from ida_tui.tui.screens.base import IdaScreen
from ida_tui.tui.screens.completions.detail import CompletionDetail, GroupView
from ida_tui.tui.screens.completions.rows import (
    CompletionRow,
    SortOrder,
    current_step_rows,
    finished_step_rows,
    format_row,
    mean_reward,
    search_rows,
    sort_rows,
)
from ida_tui.tui.screens.completions.spot_checks import SpotChecks
from ida_tui.tui.screens.completions.table import CompletionTable
from ida_tui.tui.widgets.filter_field import FilterField
from ida_tui.util.format import format_count, format_number
from ida_tui.util.paths import display_path
from ida_tui.util.safe_files import make_directory, write_text

RELEVANT_EVENTS = {ev.CompletionFinished, ev.CompletionScored, ev.RolloutStarted, ev.TextGenerated,
        ev.PhaseChanged, ev.StepFinished, ev.RunEnded}  # fmt: skip
"""Types of the events that may change this screen."""


class _LoadedStep(NamedTuple):
    """The completions of a finished step, read from disk."""

    step: int
    rows: list[CompletionRow]


class CompletionsScreen(IdaScreen):
    """A table of the step's completions with the selected one in full, or its group side by side."""

    SCOPE: ClassVar[Scope] = "completions"
    TITLE = "Completions"
    BINDINGS: ClassVar[list[BindingType]] = bindings_for(SCOPE)

    def __init__(self) -> None:
        super().__init__()
        self._run_view: RunView | None = None
        self._store: CompletionStore | None = None
        self._step = 0
        self._following = True
        self._row_order: SortOrder = "group"
        self._reversed = False
        self._search_words: list[str] = []
        self._loaded = _LoadedStep(0, [])
        self._side_by_side = False
        self._thoughts_unfolded = False
        self._spot_checks = SpotChecks()

    def compose_body(self) -> ComposeResult:
        """Table and completion, or the group side by side; the search field."""
        yield Static(id="no-completions", markup=False)
        with Horizontal(id="completions"):
            yield CompletionTable()
            yield CompletionDetail()
        yield GroupView()
        yield FilterField(self._main_widget, id="search", placeholder="search words")

    def on_mount(self) -> None:
        self.query_one(GroupView).display = False
        self.query_one(CompletionTable).focus()

    # -- display ------------------------------------------------------------------------------

    def show_run(self, run_view: RunView | None, changed: EventTypes | None) -> None:
        """Follow the run, or stay on the selected step."""
        if run_view is not self._run_view:
            self._run_view, self._store = run_view, None
            self._step, self._following, self._loaded = 0, True, _LoadedStep(0, [])
            self._spot_checks = SpotChecks()
        if changed is not None and not (changed & RELEVANT_EVENTS):
            return
        if run_view is not None and self._store is None and run_view.directory is not None:
            self._store = CompletionStore(run_view.directory / "completions.jsonl")
            self._refresh_store(self._store)
            self._spot_checks = SpotChecks(run_view.directory)
        elif self._store is not None and (changed is None or ev.CompletionScored in changed):
            self._refresh_store(self._store)
            if changed is None:
                self._spot_checks.reload()
        if run_view is not None and run_view.viewed_state is not None and changed is None:
            self._step, self._following = run_view.viewed_state.step, False
        if self._following:
            self._step = self._latest_step()
        self._show()

    def _refresh_store(self, store: CompletionStore) -> None:
        known_problem = store.problem
        store.refresh()
        if store.problem != known_problem:
            self.notify(f"Could not read completions.jsonl: {store.problem}", severity="warning")

    def _steps(self) -> tuple[int, ...]:
        """All steps with completions, including the current step."""
        steps = set(self._store.steps) if self._store is not None else set()
        state = self._run_view.state if self._run_view is not None else None
        if state is not None and (state.completions or state.streams):
            steps.add(state.completions[0].finished.step if state.completions else state.step)
        return tuple(sorted(steps))

    def _latest_step(self) -> int:
        steps = self._steps()
        return steps[-1] if steps else 0

    def _step_rows(self) -> list[CompletionRow]:
        """All completions of the selected step, sorted by group."""
        state = self._run_view.state if self._run_view is not None else None
        if state is not None and self._step == state.step and (state.completions or state.streams):
            return current_step_rows(state)
        if self._loaded.step != self._step and self._store is not None:
            rows = finished_step_rows(
                self._store.load(self._step),
                self._run_view.state.run if self._run_view is not None else None,
            )
            self._loaded = _LoadedStep(self._step, rows)
        return self._loaded.rows if self._loaded.step == self._step else []

    def _show(self) -> None:
        if not self.query("#completion-text"):
            return  # not composed yet
        rows = self._spot_checks.annotate(self._step_rows())
        self.query_one("#no-completions").display = not rows
        self.query_one("#completions").display = bool(rows) and not self._side_by_side
        self.query_one(GroupView).display = bool(rows) and self._side_by_side
        if not rows:
            message = "No run yet. Press 1 to start one, or 4 to list past runs."
            if self._run_view is not None:
                message = "No completions yet."
            self.query_one("#no-completions", Static).update(message)
            return
        matching = sort_rows(
            search_rows(rows, self._search_words), self._row_order, reverse=self._reversed
        )
        table = self.query_one(CompletionTable)
        compact = self.has_class("-compact")
        table.show_rows(matching, self._title(rows, matching, compact), self._row_order,
                   reverse=self._reversed, compact=compact)  # fmt: skip
        table.border_subtitle = "following" if self._following and not compact else ""
        self._show_selected()

    def _title(
        self, rows: list[CompletionRow], matching: list[CompletionRow], compact: bool
    ) -> str:
        run = self._run_view.state.run if self._run_view is not None else None
        title = f"Step {self._step}" + (f"/{run.steps}" if run is not None else "")
        if self._search_words:
            return f"{title} · {len(matching)} of {len(rows)}" + ("" if compact else " match")
        if not compact:
            title += f" · {format_count(len(rows), 'completion')}"
        mean = mean_reward(rows)
        if mean is None:
            return title
        return f"{title} · {'' if compact else 'mean '}{rows[0].reward_name} {format_number(mean)}"

    @on(CompletionTable.Moved)
    def _show_selected(self) -> None:
        selected = self.query_one(CompletionTable).selected_row
        if self._side_by_side and selected is not None:
            self.run_worker(
                self.query_one(GroupView).show_group(
                    self._spot_checks.annotate(self._step_rows()),
                    selected,
                    self._search_words,
                    unfold=self._thoughts_unfolded,
                ),
                exclusive=True,
                group="group",
            )
        else:
            view = self.query_one(CompletionDetail)
            view.show_row(selected, self._search_words, unfold=self._thoughts_unfolded)
            view.border_subtitle = self._spot_checks.summary()

    def move_cursor(self, direction: str) -> None:
        """In the side-by-side view, move from completion to completion."""
        if not self._side_by_side:
            super().move_cursor(direction)
            return
        table = self.query_one(CompletionTable)
        positions = [row.position for row in table.completion_rows]
        if positions:
            index = positions.index(table.position) if table.position in positions else 0
            last = len(positions) - 1
            targets = {
                "down": min(index + 1, last),
                "up": max(index - 1, 0),
                "top": 0,
                "bottom": last,
            }
            table.select(positions[targets[direction]])

    # -- actions: steps -----------------------------------------------------------------------

    def action_next_step(self) -> None:
        """Show the next step; during a search, the next step with a match."""
        self._change_step(1)

    def action_previous_step(self) -> None:
        """Show the previous step; during a search, the previous step with a match."""
        self._change_step(-1)

    def _change_step(self, direction: int) -> None:
        if self._search_words:
            self._search_steps(direction)
            return
        beyond = [step for step in self._steps() if (step - self._step) * direction > 0]
        if not beyond:
            self.notify("This is the last step." if direction > 0 else "This is the first step.")
            return
        self._show_step(min(beyond) if direction > 0 else max(beyond))

    def _show_step(self, step: int) -> None:
        self._step, self._following = step, False
        self._show()

    @work(exclusive=True, group="search")
    async def _search_steps(self, direction: int) -> None:
        store = self._store
        if store is None:
            return
        step = await asyncio.to_thread(store.search, self._search_words, self._step, direction)
        if step is None:
            order = "later" if direction > 0 else "earlier"
            self.notify(f"No match for “{' '.join(self._search_words)}” in {order} steps.")
        else:
            self._show_step(step)

    def action_follow(self) -> None:
        """Show the latest step, and keep following the run."""
        self._following = True
        self._step = self._latest_step()
        self._show()

    # -- actions: order and layout ------------------------------------------------------------

    def action_sort_reward(self) -> None:
        """Sort by reward, best first; again for worst first."""
        self._sort("reward")

    def action_sort_advantage(self) -> None:
        """Sort by advantage, largest first; again for smallest first."""
        self._sort("advantage")

    def action_sort_group(self) -> None:
        """Sort by group, in the order of generation."""
        self._row_order, self._reversed = "group", False
        self._show()

    def _sort(self, order: SortOrder) -> None:
        self._reversed = self._row_order == order and not self._reversed
        self._row_order = order
        self._show()

    def action_side_by_side(self) -> None:
        """Switch between the table and the group of the selected completion side by side."""
        self._side_by_side = not self._side_by_side
        self._show()
        self._main_widget().focus()

    def action_toggle_thoughts(self) -> None:
        """Show the thoughts of the completions, or fold them again."""
        self._thoughts_unfolded = not self._thoughts_unfolded
        self._show_selected()

    def _main_widget(self) -> Widget:
        """The table, or the columns of the side-by-side view."""
        return self.query_one("#group-columns" if self._side_by_side else "#completion-table")

    # -- actions: searching -------------------------------------------------------------------

    def action_search(self) -> None:
        """Open the search field; only completions with all words are shown."""
        self.query_one(FilterField).open(" ".join(self._search_words))

    @on(Input.Changed, "#search")
    def _on_search_changed(self, event: Input.Changed) -> None:
        self._search_words = event.value.split()
        self._show()

    def handle_escape(self) -> bool:
        """Close the search; if there is none, close the side-by-side view."""
        field = self.query_one(FilterField)
        if self._search_words or field.display:
            self._search_words = []
            field.close()
            self._show()
            return True
        if self._side_by_side:
            self.action_side_by_side()
            return True
        return False

    # -- actions: spot checks -----------------------------------------------------------------

    def action_agree(self) -> None:
        """Mark the scores of the selected completion as right."""
        self._record_spot_check(True)

    def action_disagree(self) -> None:
        """Mark the scores of the selected completion as wrong."""
        self._record_spot_check(False)

    def action_clear_mark(self) -> None:
        """Remove the mark from the scores of the selected completion."""
        self._record_spot_check(None)

    def _record_spot_check(self, agree: bool | None) -> None:
        row = self.query_one(CompletionTable).selected_row
        try:
            saved = row is not None and self._spot_checks.record(row, agree, self.app.clock())
        except OSError as error:
            self.app.show_error(
                IdaError(f"could not save the spot check: {error.strerror or error}")
            )
            return
        if saved:
            self._show()
        else:
            self.notify("This completion has no scores to agree or disagree with.")

    # -- actions: copying and saving ----------------------------------------------------------

    def action_copy(self) -> None:
        """Copy the selected completion with its prompt and scores to the clipboard."""
        row = self.query_one(CompletionTable).selected_row
        if row is None:
            self.notify("There is no completion to copy.")
            return
        self.app.copy_to_clipboard(format_row(row))
        self.notify(f"Copied completion {row.index} of group {row.group}, step {row.step}.")

    def action_save(self) -> None:
        """Save the selected completion to a file in the run directory."""
        row = self.query_one(CompletionTable).selected_row
        directory = self._run_view.directory if self._run_view is not None else None
        if row is None or directory is None:
            self.notify("There is no completion to save.")
            return
        name = f"step-{row.step:04}-group-{row.group}-completion-{row.index}.txt"
        file = directory / "picked" / name
        try:
            make_directory(file.parent)
            write_text(file, format_row(row))
        except OSError as error:
            self.app.show_error(
                IdaError(
                    f"could not write {file}: {error.strerror}",
                    "press y to copy the completion to the clipboard instead",
                )
            )
            return
        self.notify(f"Saved {display_path(file)}")
