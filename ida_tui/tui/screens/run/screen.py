"""The run screen: everything about one run that would otherwise be dug out of logs."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.widget import Widget
from textual.widgets import Static

from ida_tui.errors import IdaError
from ida_tui.events.state import RunState
from ida_tui.events.types import EventError
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.replay import Replay
from ida_tui.tui.actions import Scope, bindings
from ida_tui.tui.run_view.watched import Changed, Watched
from ida_tui.tui.screens.base import IdaScreen
from ida_tui.tui.screens.dialogs import Ask
from ida_tui.tui.screens.run.health import HealthPane
from ida_tui.tui.screens.run.judge import JudgePane
from ida_tui.tui.screens.run.log import LogPane
from ida_tui.tui.screens.run.memory import MemoryPane
from ida_tui.tui.screens.run.pane import Pane
from ida_tui.tui.screens.run.progress import ProgressPane
from ida_tui.tui.screens.run.scores import ScoresPane

PANES = ("progress", "scores", "judge", "memory", "health", "log")


class RunScreen(IdaScreen):
    """Six panes over the run's state; any can be maximised or hidden."""

    SCOPE: ClassVar[Scope] = "run"
    TITLE = "Run"
    BINDINGS: ClassVar[list[BindingType]] = bindings(SCOPE)

    def __init__(self) -> None:
        super().__init__()
        self._maximised = ""
        self._hidden: set[str] = set()

    def compose_body(self) -> ComposeResult:
        """Progress above; scores on the left, figures on the right; the log below."""
        yield Static("No run yet.  1 chooses one,  4 lists past runs.", id="no-run")
        yield ProgressPane()
        with Horizontal(id="columns"):
            yield ScoresPane()
            with Vertical(id="right"):
                yield JudgePane()
                yield MemoryPane()
                yield HealthPane()
        yield LogPane()
        yield Static(id="hidden")

    def on_mount(self) -> None:
        self.call_after_refresh(self._arrange)

    def show_run(self, watched: Watched | None, changed: Changed | None) -> None:
        """Bring the panes up to date."""
        if self.has_class("-no-run") != (watched is None):
            self.set_class(watched is None, "-no-run")
            self._arrange()
        if watched is None:
            return
        now = self.app.clock()
        for pane in self.query(Pane):
            if pane.display:
                pane.show(watched, now, changed)

    def fit(self) -> None:
        """Plots and gauges are drawn to measure."""
        self._arrange()

    # -- panes --------------------------------------------------------------------------------

    def action_pane(self, name: str) -> None:
        """Maximise a pane; a maximised one goes back, a hidden one comes back."""
        if name in self._hidden:
            self._hidden.discard(name)
        else:
            self._maximised = "" if self._maximised == name else name
        self._arrange()
        self.query_one(f"#{name}").focus()

    def action_hide_pane(self) -> None:
        """Hide the pane that has the focus; the last one stays."""
        if self.app.watched is None:
            self.notify("No run yet.")
            return
        name = self._maximised or (self.focused.id if self.focused else None) or ""
        if name not in PANES:
            self.notify("Choose a pane first: tab, or its capital letter.")
            return
        if len(self._hidden) == len(PANES) - 1:
            self.notify("This is the last pane.")
            return
        self._hidden.add(name)
        self._maximised = ""
        self._arrange()
        self.focus_next()

    def action_show_panes(self) -> None:
        """Show every pane in its place."""
        self._hidden.clear()
        self._maximised = ""
        self._arrange()

    def leave(self) -> bool:
        """Put a maximised pane back first."""
        if self._maximised:
            self._maximised = ""
            self._arrange()
            return True
        return False

    def _arrange(self) -> None:
        if len(self.query(".pane")) < len(PANES):
            return  # still being made
        if self.app.watched is None:
            shown: set[str] = set()
        else:
            shown = {self._maximised} if self._maximised else set(PANES) - self._hidden
        no_room = self.has_class("-compact") and not self._maximised and "health" in shown
        if no_room:
            shown.discard("health")
        self.query_one(LogPane).hint("H shows health" if no_room else "")
        for name in PANES:
            self.query_one(f"#{name}").display = name in shown
        for part in ("right", "columns"):
            column = self.query_one(f"#{part}", Widget)
            column.display = any(child.display for child in column.children)
        self.set_class(bool(self._maximised), "-maximised")
        hint = self.query_one("#hidden", Static)
        names = sorted(self._hidden, key=PANES.index)
        keys = ", ".join(f"{name.capitalize()} ({name[0].upper()})" for name in names)
        hint.update(f"hidden: {keys} · X shows all" if names else "")
        hint.display = bool(names) and not self._maximised
        # A pane that was hidden knows nothing of what happened meanwhile.
        self.call_after_refresh(self.refresh_run)

    # -- the run ------------------------------------------------------------------------------

    def action_stop(self) -> None:
        """Stop the training, after a question."""
        watched = self.app.watched
        if watched is None or not watched.going_on:
            self.notify("No run is live.")
            return
        if watched.stop_asked:
            self.notify("It is stopping: a checkpoint is being saved.")
            return

        def answered(stop: bool | None) -> None:
            if stop:
                self.app.request_stop()

        self.app.push_screen(
            Ask(
                "Stop the training?",
                "The step under way is given up. A checkpoint of the last finished step is saved.",
                yes="Stop",
                no="Go on",
            ),
            answered,
        )

    def action_pause(self) -> None:
        """Pause the training after the step under way, or let it go on."""
        watched = self.app.watched
        if watched is None or not watched.going_on:
            self.notify("No run is live.")
            return
        paused = watched.state.pause
        if paused is not None and paused.by == "judge":
            self.notify("It waits for its judge: answer the question on the screen.")
        elif paused is not None or watched.pause_asked:
            self.app.ask_run("go_on")
        else:
            self.app.ask_run("pause")
            self.notify("It pauses after the step under way. p lets it go on.")

    def action_detach(self) -> None:
        """Let a process of its own train on, and follow it."""
        watched = self.app.watched
        if watched is None or not watched.going_on:
            self.notify("No run is live.")
        elif not watched.live:
            self.notify("Another process trains it already: leaving the app leaves it alone.")
        else:
            self.app.hand_over()

    def action_hold(self) -> None:
        """Hold the display still, or let it go; the run goes on either way."""
        if self.app.watched is None:
            self.notify("No run yet.")
            return
        self.app.held = not self.app.held
        self.refresh_run()

    # -- looking back -------------------------------------------------------------------------

    def action_step_back(self) -> None:
        """Look at the step before."""
        self._look(-1)

    def action_step_on(self) -> None:
        """Look at the next step."""
        self._look(1)

    def action_step_end(self) -> None:
        """Return to the newest state."""
        if self.app.watched is not None:
            self.app.watched.viewed = None
            self.refresh_run()

    def _look(self, direction: int) -> None:
        watched = self.app.watched
        if watched is None or not watched.state.steps:
            self.notify("No step has finished yet.")
            return
        steps = watched.state.steps
        at = len(watched.viewed.steps) if watched.viewed is not None else len(steps) + 1
        wanted = min(max(1, at + direction), len(steps) + 1)
        if wanted > len(steps):
            watched.viewed = None
        else:
            try:
                watched.viewed = state_at(watched, wanted)
            except (OSError, EventError, KeyError) as error:
                self.app.show_error(IdaError(f"the run cannot be read any more: {error}"))
                return
        self.refresh_run()


def state_at(watched: Watched, count: int) -> RunState:
    """The state when so many steps had finished, read back from the run's own file.

    Raises:
        OSError: the file cannot be read.
        EventError: a line in it is no event.
    """
    step = watched.state.steps[count - 1].step
    if watched.replay is None or step not in watched.replay.steps:
        if watched.directory is None:
            raise FileNotFoundError("it has no directory yet")
        watched.replay = Replay.open(RunDirectory(watched.directory).events)
    return watched.replay.at(step)
