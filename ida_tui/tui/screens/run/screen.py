"""Run screen: progress, scores, judge, memory, health, and log of one run."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.widget import Widget
from textual.widgets import Static

from ida_tui.errors import IdaError
from ida_tui.events.codec import EventError
from ida_tui.events.state import RunState
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.replay import Replay
from ida_tui.tui.actions import Scope, bindings_for
from ida_tui.tui.run_view.watched import EventTypes, RunView
from ida_tui.tui.screens.base import IdaScreen
from ida_tui.tui.screens.dialogs import ConfirmDialog
from ida_tui.tui.screens.run.health import HealthPane
from ida_tui.tui.screens.run.judge import JudgePane
from ida_tui.tui.screens.run.log import LogPane
from ida_tui.tui.screens.run.memory import MemoryPane
from ida_tui.tui.screens.run.pane import Pane
from ida_tui.tui.screens.run.progress import ProgressPane
from ida_tui.tui.screens.run.scores import ScoresPane

PANES = ("progress", "scores", "judge", "memory", "health", "log")


class RunScreen(IdaScreen):
    """Six panes of the run's state; each can be maximized or hidden."""

    SCOPE: ClassVar[Scope] = "run"
    TITLE = "Run"
    BINDINGS: ClassVar[list[BindingType]] = bindings_for(SCOPE)

    def __init__(self) -> None:
        super().__init__()
        self._maximized = ""
        self._hidden: set[str] = set()
        self._without_judge = False
        """Whether functions compute all scores of the run, so that there is no Judge pane."""

    def compose_body(self) -> ComposeResult:
        """Progress at the top, scores on the left, three panes on the right, the log at the bottom."""
        yield Static("No run yet. Press 1 to start one, or 4 to list past runs.", id="no-run")
        yield ProgressPane()
        with Horizontal(id="columns"):
            yield ScoresPane()
            with Vertical(id="right"):
                yield JudgePane()
                yield MemoryPane()
                yield HealthPane()
        yield LogPane()
        yield Static(id="hidden-panes")

    def on_mount(self) -> None:
        self.call_after_refresh(self._arrange)

    def show_run(self, run_view: RunView | None, changed: EventTypes | None) -> None:
        """Update the panes."""
        started = run_view.state.run if run_view is not None else None
        without_judge = started is not None and not started.judge
        if self.has_class("-no-run") != (run_view is None) or without_judge != self._without_judge:
            self.set_class(run_view is None, "-no-run")
            self._without_judge = without_judge
            self._arrange()
        if run_view is None:
            return
        now = self.app.clock()
        for pane in self.query(Pane):
            if pane.display:
                pane.refresh_pane(run_view, now, changed)

    def apply_size(self) -> None:
        """Rearrange the panes: the layout, plots, and gauges depend on the size."""
        self._arrange()

    # -- panes --------------------------------------------------------------------------------

    def action_pane(self, name: str) -> None:
        """Maximize a pane; restore it if it is maximized or hidden."""
        if name == "judge" and self._without_judge:
            self.notify("Functions compute all scores of this run. It has no judge.")
            return
        if name in self._hidden:
            self._hidden.discard(name)
        else:
            self._maximized = "" if self._maximized == name else name
        self._arrange()
        self.query_one(f"#{name}").focus()

    def action_hide_pane(self) -> None:
        """Hide the focused pane, unless it is the last one."""
        if self.app.run_view is None:
            self.notify("No run yet.")
            return
        name = self._maximized or (self.focused.id if self.focused else None) or ""
        if name not in PANES:
            self.notify("Focus a pane first: press Tab or the pane's capital letter.")
            return
        if len(self._hidden) == len(PANES) - 1:
            self.notify("The last pane cannot be hidden.")
            return
        self._hidden.add(name)
        self._maximized = ""
        self._arrange()
        self.focus_next()

    def action_show_panes(self) -> None:
        """Restore all panes."""
        self._hidden.clear()
        self._maximized = ""
        self._arrange()

    def handle_escape(self) -> bool:
        """Restore a maximized pane."""
        if self._maximized:
            self._maximized = ""
            self._arrange()
            return True
        return False

    def _arrange(self) -> None:
        if len(self.query(".pane")) < len(PANES):
            return  # not composed yet
        if self.app.run_view is None:
            shown: set[str] = set()
        else:
            shown = {self._maximized} if self._maximized else set(PANES) - self._hidden
            if self._without_judge:
                shown.discard("judge")
        no_room = self.has_class("-compact") and not self._maximized and "health" in shown
        if no_room:
            shown.discard("health")
        self.query_one(LogPane).set_hint("H: health" if no_room else "")
        for name in PANES:
            self.query_one(f"#{name}").display = name in shown
        for part in ("right", "columns"):
            column = self.query_one(f"#{part}", Widget)
            column.display = any(child.display for child in column.children)
        self.set_class(bool(self._maximized), "-maximized")
        hint = self.query_one("#hidden-panes", Static)
        names = sorted(self._hidden, key=PANES.index)
        keys = ", ".join(f"{name.capitalize()} ({name[0].upper()})" for name in names)
        hint.update(f"hidden: {keys} · X: show all" if names else "")
        hint.display = bool(names) and not self._maximized
        # A hidden pane receives no updates, so refresh all of them.
        self.call_after_refresh(self.refresh_run)

    # -- the run ------------------------------------------------------------------------------

    def action_stop(self) -> None:
        """Stop the training after a confirmation."""
        run_view = self.app.run_view
        if run_view is None or not run_view.in_progress:
            self.notify("No run is live.")
            return
        if run_view.stop_requested:
            self.notify("The run is stopping and saving a checkpoint.")
            return

        def on_answer(stop: bool | None) -> None:
            if stop:
                self.app.run_controller.send_request("stop")

        self.app.push_screen(
            ConfirmDialog(
                "Stop the training?",
                "The current step is discarded; the last finished step is saved.",
                yes="Stop",
                no="Keep training",
            ),
            on_answer,
        )

    def action_pause(self) -> None:
        """Pause the training after the current step, or resume it."""
        run_view = self.app.run_view
        if run_view is None or not run_view.in_progress:
            self.notify("No run is live.")
            return
        paused = run_view.state.pause
        if paused is not None and paused.by == "judge":
            self.notify(
                f"The run is paused because of {paused.cause}. First choose how to continue."
            )
        elif paused is not None or run_view.pause_requested:
            self.app.run_controller.send_request("go_on")
        else:
            self.app.run_controller.send_request("pause")
            self.notify("Pausing after this step. Press p to resume.")

    def action_detach(self) -> None:
        """Let the run go on in the background, and follow it."""
        run_view = self.app.run_view
        if run_view is None or not run_view.in_progress:
            self.notify("No run is live.")
        elif not run_view.is_live:
            self.notify(
                "This run is already in another process; quitting the app does not stop it."
            )
        else:
            self.app.run_controller.hand_over()

    def action_freeze(self) -> None:
        """Freeze or unfreeze the display; the run continues."""
        if self.app.run_view is None:
            self.notify("No run yet.")
            return
        self.app.frozen = not self.app.frozen
        self.refresh_run()

    # -- viewing earlier steps ----------------------------------------------------------------

    def action_step_back(self) -> None:
        """View the previous step."""
        self._view_step(-1)

    def action_step_forward(self) -> None:
        """View the next step."""
        self._view_step(1)

    def action_latest_step(self) -> None:
        """Return to the current state."""
        if self.app.run_view is not None:
            self.app.run_view.viewed_state = None
            self.refresh_run()

    def _view_step(self, direction: int) -> None:
        run_view = self.app.run_view
        if run_view is None or not run_view.state.steps:
            self.notify("No step has finished yet.")
            return
        steps = run_view.state.steps
        current = (
            len(run_view.viewed_state.steps)
            if run_view.viewed_state is not None
            else len(steps) + 1
        )
        wanted = min(max(1, current + direction), len(steps) + 1)
        if wanted > len(steps):
            run_view.viewed_state = None
        else:
            try:
                run_view.viewed_state = state_at(run_view, wanted)
            except (OSError, EventError, KeyError) as error:
                self.app.show_error(IdaError(f"could not read the events of the run: {error}"))
                return
        self.refresh_run()


def state_at(run_view: RunView, count: int) -> RunState:
    """The state after `count` finished steps, read from the run's event log.

    Raises:
        OSError: the file could not be read.
        EventError: a line is not a valid event.
    """
    step = run_view.state.steps[count - 1].step
    if run_view.replay is None or step not in run_view.replay.steps:
        if run_view.directory is None:
            raise FileNotFoundError("the run has no directory yet")
        run_view.replay = Replay.open(RunDirectory(run_view.directory).events)
    return run_view.replay.state_at(step)
