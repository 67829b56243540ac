"""Completions screen: every completion of a run with its scores and the judge's reason, step by step."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.widgets import Input, Static

from ida_tui.errors import IdaError
from ida_tui.events import types as ev
from ida_tui.runs.store.completions import CompletionStore
from ida_tui.tui.actions import Scope, bindings
from ida_tui.tui.run_view.watched import Changed, Watched
from ida_tui.tui.screens.base import IdaScreen
from ida_tui.tui.screens.completions.detail import SampleView, SideBySide
from ida_tui.tui.screens.completions.rows import (
    Order,
    Sample,
    as_text,
    mean_reward,
    of_a_step,
    of_the_step_under_way,
    ordered,
    with_words,
)
from ida_tui.tui.screens.completions.spot_checks import SpotChecks
from ida_tui.tui.screens.completions.table import SampleTable
from ida_tui.util.paths import shown_path

NEWS = {ev.CompletionFinished, ev.CompletionScored, ev.RolloutStarted, ev.TextGenerated,
        ev.PhaseChanged, ev.StepFinished, ev.RunEnded}  # fmt: skip
"""Types of the events that may change this screen."""


class CompletionsScreen(IdaScreen):
    """A table of the step's completions with the selected one in full, or its group side by side."""

    SCOPE: ClassVar[Scope] = "completions"
    TITLE = "Completions"
    BINDINGS: ClassVar[list[BindingType]] = bindings(SCOPE)

    def __init__(self) -> None:
        super().__init__()
        self._watched: Watched | None = None
        self._store: CompletionStore | None = None
        self._step = 0
        self._following = True
        self._by: Order = "group"
        self._turned = False
        self._words: list[str] = []
        self._loaded: tuple[int, list[Sample]] = (0, [])
        self._side = False
        self._checks = SpotChecks()

    def compose_body(self) -> ComposeResult:
        """Table and completion, or the group side by side; the search field."""
        yield Static(id="no-completions", markup=False)
        with Horizontal(id="completions"):
            yield SampleTable()
            yield SampleView()
        yield SideBySide()
        yield Input(id="search", placeholder="search words", select_on_focus=False)

    def on_mount(self) -> None:
        self.query_one("#search").display = False
        self.query_one(SideBySide).display = False
        self.query_one(SampleTable).focus()

    # -- display ------------------------------------------------------------------------------

    def show_run(self, run_view: Watched | None, changed: Changed | None) -> None:
        """Follow the run, or stay on the selected step."""
        if run_view is not self._watched:
            self._watched, self._store = run_view, None
            self._step, self._following, self._loaded = 0, True, (0, [])
            self._checks = SpotChecks()
        if changed is not None and not (changed & NEWS):
            return
        if run_view is not None and self._store is None and run_view.directory is not None:
            self._store = CompletionStore(run_view.directory / "completions.jsonl")
            self._store.refresh()
            self._checks = SpotChecks(run_view.directory)
        elif self._store is not None and (changed is None or ev.CompletionScored in changed):
            self._store.refresh()
            if changed is None:
                self._checks.read()
        if run_view is not None and run_view.viewed is not None and changed is None:
            self._step, self._following = run_view.viewed.step, False
        if self._following:
            self._step = self._newest()
        self._show()

    def _steps(self) -> tuple[int, ...]:
        """All steps with completions, including the current step."""
        steps = set(self._store.steps) if self._store is not None else set()
        state = self._watched.state if self._watched is not None else None
        if state is not None and (state.completions or state.streams):
            steps.add(state.completions[0].finished.step if state.completions else state.step)
        return tuple(sorted(steps))

    def _newest(self) -> int:
        steps = self._steps()
        return steps[-1] if steps else 0

    def _samples(self) -> list[Sample]:
        """All completions of the selected step, sorted by group."""
        state = self._watched.state if self._watched is not None else None
        if state is not None and self._step == state.step and (state.completions or state.streams):
            return of_the_step_under_way(state)
        if self._loaded[0] != self._step and self._store is not None:
            self._loaded = (self._step, of_a_step(self._store.load(self._step)))
        return self._loaded[1] if self._loaded[0] == self._step else []

    def _show(self) -> None:
        if not self.query("#sample-text"):
            return  # not composed yet
        rows = self._checks.on(self._samples())
        self.query_one("#no-completions").display = not rows
        self.query_one("#completions").display = bool(rows) and not self._side
        self.query_one(SideBySide).display = bool(rows) and self._side
        if not rows:
            message = "No run yet. Press 1 to start one, or 4 to list past runs."
            if self._watched is not None:
                message = "No completions yet."
            self.query_one("#no-completions", Static).update(message)
            return
        matching = ordered(with_words(rows, self._words), self._by, turned=self._turned)
        table = self.query_one(SampleTable)
        compact = self.has_class("-compact")
        table.show(matching, self._title(rows, matching, compact), self._by,
                   turned=self._turned, compact=compact)  # fmt: skip
        table.border_subtitle = "following" if self._following and not compact else ""
        self._show_chosen()

    def _title(self, rows: list[Sample], matching: list[Sample], compact: bool) -> str:
        run = self._watched.state.run if self._watched is not None else None
        title = f"Step {self._step}" + (f"/{run.steps}" if run is not None else "")
        if self._words:
            return f"{title} · {len(matching)} of {len(rows)}" + ("" if compact else " match")
        if not compact:
            title += f" · {len(rows)} completions"
        mean = mean_reward(rows)
        if mean is None:
            return title
        return f"{title} · {'' if compact else 'mean '}R_IDA {mean:.3f}"

    @on(SampleTable.Moved)
    def _show_chosen(self) -> None:
        chosen = self.query_one(SampleTable).chosen
        if self._side and chosen is not None:
            self.run_worker(
                self.query_one(SideBySide).show(
                    self._checks.on(self._samples()), chosen, self._words
                ),
                exclusive=True,
                group="side",
            )
        else:
            view = self.query_one(SampleView)
            view.show(chosen, self._words)
            view.border_subtitle = self._checks.words()

    def cursor(self, direction: str) -> None:
        """In the side-by-side view, move from completion to completion."""
        if not self._side:
            super().cursor(direction)
            return
        table = self.query_one(SampleTable)
        places = [row.place for row in table.samples]
        if places:
            index = places.index(table.place) if table.place in places else 0
            last = len(places) - 1
            targets = {
                "down": min(index + 1, last),
                "up": max(index - 1, 0),
                "top": 0,
                "bottom": last,
            }
            table.choose(places[targets[direction]])

    # -- actions: steps -----------------------------------------------------------------------

    def action_next_step(self) -> None:
        """Show the next step; during a search, the next step with a match."""
        self._go(1)

    def action_previous_step(self) -> None:
        """Show the previous step; during a search, the previous step with a match."""
        self._go(-1)

    def _go(self, direction: int) -> None:
        if self._words:
            self._search_on(direction)
            return
        beyond = [step for step in self._steps() if (step - self._step) * direction > 0]
        if not beyond:
            self.notify("This is the last step." if direction > 0 else "This is the first step.")
            return
        self._look_at(min(beyond) if direction > 0 else max(beyond))

    def _look_at(self, step: int) -> None:
        self._step, self._following = step, False
        self._show()

    @work(exclusive=True, group="search")
    async def _search_on(self, direction: int) -> None:
        store = self._store
        if store is None:
            return
        step = await asyncio.to_thread(store.search, self._words, self._step, direction)
        if step is None:
            order = "later" if direction > 0 else "earlier"
            self.notify(f"No match for “{' '.join(self._words)}” in {order} steps.")
        else:
            self._look_at(step)

    def action_follow(self) -> None:
        """Show the latest step, and keep following the run."""
        self._following = True
        self._step = self._newest()
        self._show()

    # -- actions: order and layout ------------------------------------------------------------

    def action_sort_reward(self) -> None:
        """Sort by reward, best first; again for worst first."""
        self._sort("reward")

    def action_sort_advantage(self) -> None:
        """Sort by advantage, largest first; again for smallest first."""
        self._sort("advantage")

    def action_sort_group(self) -> None:
        """Sort by group, in order of generation."""
        self._by, self._turned = "group", False
        self._show()

    def _sort(self, by: Order) -> None:
        self._turned = self._by == by and not self._turned
        self._by = by
        self._show()

    def action_side_by_side(self) -> None:
        """Switch between the table and the group of the selected completion side by side."""
        self._side = not self._side
        self._show()
        self.query_one("#side-columns" if self._side else "#samples").focus()

    # -- actions: searching -------------------------------------------------------------------

    def action_search(self) -> None:
        """Open the search field; only completions with all words are shown."""
        field = self.query_one("#search", Input)
        field.value = " ".join(self._words)
        field.display = True
        field.focus()

    @on(Input.Changed, "#search")
    def _typed(self, event: Input.Changed) -> None:
        self._words = event.value.split()
        self._show()

    @on(Input.Submitted, "#search")
    def _kept(self) -> None:
        self.query_one("#search").display = False
        self.query_one("#side-columns" if self._side else "#samples").focus()

    def leave(self) -> bool:
        """Close the search; if there is none, close the side-by-side view."""
        if self._words or self.query_one("#search").display:
            self._words = []
            self._kept()
            self._show()
            return True
        if self._side:
            self.action_side_by_side()
            return True
        return False

    # -- actions: spot checks -----------------------------------------------------------------

    def action_agree(self) -> None:
        """Mark the scores of the selected completion as right."""
        self._say(True)

    def action_disagree(self) -> None:
        """Mark the scores of the selected completion as wrong."""
        self._say(False)

    def action_take_back(self) -> None:
        """Remove the mark from the scores of the selected completion."""
        self._say(None)

    def _say(self, agree: bool | None) -> None:
        row = self.query_one(SampleTable).chosen
        try:
            saved = row is not None and self._checks.say(row, agree, self.app.clock())
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
        row = self.query_one(SampleTable).chosen
        if row is None:
            self.notify("There is no completion to copy.")
            return
        self.app.copy_to_clipboard(as_text(row))
        self.notify(f"Copied completion {row.group}·{row.index} of step {row.step}.")

    def action_save(self) -> None:
        """Save the selected completion to a file in the run directory."""
        row = self.query_one(SampleTable).chosen
        directory = self._watched.directory if self._watched is not None else None
        if row is None or directory is None:
            self.notify("There is no completion to save.")
            return
        name = f"step-{row.step:04}-group-{row.group}-completion-{row.index}.txt"
        file = directory / "picked" / name
        try:
            file.parent.mkdir(exist_ok=True)
            file.write_text(as_text(row), encoding="utf-8")
        except OSError as error:
            self.app.show_error(
                IdaError(
                    f"could not write {file}: {error.strerror}",
                    "press y to copy it to the clipboard instead",
                )
            )
            return
        self.notify(f"Saved {shown_path(file)}")
