"""What every screen has: a title line, a footer, the keys of its scope, and a word where there is no room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import Footer, Static

from ida_tui.tui.actions import Scope
from ida_tui.tui.run_view.watched import Changed, Watched
from ida_tui.tui.widgets.title import TitleBar

if TYPE_CHECKING:
    from ida_tui.tui.app import IdaApp

SMALLEST = (60, 16)
"""Columns and rows below which nothing but a message is shown."""
COMPACT = (110, 32)
"""Below either of these a screen has the class `-compact`."""


class IdaScreen(Screen[None]):
    """A screen of the app.

    A subclass sets `SCOPE` and `BINDINGS = bindings(SCOPE)`, yields its widgets from `compose_body`,
    and brings them up to date in `show_run`.
    """

    SCOPE: ClassVar[Scope]
    TITLE: ClassVar[str]

    app: IdaApp

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Textual asks before it carries out an action, or shows its key."""
        return self.app.allows(action, parameters) and super().check_action(action, parameters)

    def compose(self) -> ComposeResult:
        yield TitleBar(self.TITLE)
        with Vertical(id="body"):
            yield from self.compose_body()
        yield Static(id="too-small")
        yield Footer(compact=True, show_command_palette=False)

    def compose_body(self) -> ComposeResult:
        """The widgets between title and footer."""
        raise NotImplementedError

    def on_resize(self) -> None:
        width, height = self.app.size
        self.set_class(width < SMALLEST[0] or height < SMALLEST[1], "-too-small")
        self.set_class(width < COMPACT[0] or height < COMPACT[1], "-compact")
        self.query_one("#too-small", Static).update(
            f"ida-tui needs {SMALLEST[0]}×{SMALLEST[1]}\nthis is {width}×{height}"
        )
        self.fit()
        self.call_after_refresh(self.refresh_run)

    def fit(self) -> None:
        """The screen has another size; its classes have been set."""

    def on_mount(self) -> None:
        self.call_after_refresh(self.refresh_run)

    def on_screen_resume(self) -> None:
        # It was not told of anything while another screen was in front.
        self.refresh_run()

    def refresh_run(self, changed: Changed | None = None) -> None:
        """Show the run as it is now.

        Args:
            changed: types of the events since the last time; None if anything may have changed.
        """
        titles = self.query(TitleBar)
        if not titles:
            return  # a run may move on while the screen is still being made
        watched = self.app.watched
        titles.first().show_run(watched, held=self.app.held)
        self.show_run(watched, changed)

    def show_run(self, watched: Watched | None, changed: Changed | None) -> None:
        """Bring the body up to date; called 4×/s while a run goes on, and when the screen comes up.

        Args:
            watched: the run on the screen; None before there is one.
            changed: types of the events since the last call; None if anything may have changed.
        """

    def leave(self) -> bool:
        """What escape does first: leave a search, an editor, a maximised pane. False if nothing."""
        return False

    def cursor(self, direction: str) -> None:
        """Move in whatever has the focus; `direction` is down, up, top or bottom."""
        focused: Any = self.focused
        names = {
            "down": ("action_cursor_down", "action_scroll_down"),
            "up": ("action_cursor_up", "action_scroll_up"),
            "top": ("action_first", "action_scroll_top", "action_scroll_home"),
            "bottom": ("action_last", "action_scroll_bottom", "action_scroll_end"),
        }[direction]
        for name in names:
            method = getattr(focused, name, None)
            if method is not None:
                method()
                return
