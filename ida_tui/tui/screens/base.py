"""Base class of all screens: title bar, footer, key bindings, and the message for small terminals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.geometry import Size
from textual.screen import Screen
from textual.widgets import Footer, Static

from ida_tui.tui.actions import Scope
from ida_tui.tui.widgets.title import TitleBar

if TYPE_CHECKING:
    from ida_tui.tui.app import IdaApp
    from ida_tui.tui.run_view.watched import EventTypes, RunView

MINIMUM_SIZE = Size(60, 16)
"""Smallest columns and rows of the app; a smaller terminal shows only a message."""
COMPACT_SIZE = Size(110, 32)
"""Columns and rows; if the terminal has fewer of either, the screen gets the class `-compact`."""


class IdaScreen(Screen[None]):
    """A screen of the app.

    A subclass sets `SCOPE` and `BINDINGS = bindings_for(SCOPE)`, yields its widgets from `compose_body`, and
    updates them in `show_run`.
    """

    SCOPE: ClassVar[Scope]
    TITLE: ClassVar[str]

    app: IdaApp

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Called by Textual before it runs an action or shows its key."""
        return self.app.allows(action, parameters) and super().check_action(action, parameters)

    def compose(self) -> ComposeResult:
        yield TitleBar(self.TITLE)
        with Vertical(id="body"):
            yield from self.compose_body()
        yield Static(id="too-small")
        yield Footer(compact=True, show_command_palette=False)

    def compose_body(self) -> ComposeResult:
        """The widgets between the title bar and the footer."""
        raise NotImplementedError

    def on_resize(self) -> None:
        width, height = self.app.size
        self.set_class(width < MINIMUM_SIZE.width or height < MINIMUM_SIZE.height, "-too-small")
        self.set_class(width < COMPACT_SIZE.width or height < COMPACT_SIZE.height, "-compact")
        self.query_one("#too-small", Static).update(
            f"ida-tui needs {MINIMUM_SIZE.width}×{MINIMUM_SIZE.height}\nthis terminal is {width}×{height}"
        )
        self.apply_size()
        self.call_after_refresh(self.refresh_run)

    def apply_size(self) -> None:
        """Called after a resize, when the screen's classes have been set."""

    def on_mount(self) -> None:
        self.call_after_refresh(self.refresh_run)

    def on_screen_resume(self) -> None:
        # A screen in the background receives no updates.
        self.refresh_run()

    def refresh_run(self, changed: EventTypes | None = None) -> None:
        """Update the title bar and the body.

        Args:
            changed: types of the events since the last update; None if anything may have changed.
        """
        titles = self.query(TitleBar)
        if not titles:
            return  # not composed yet
        run_view = self.app.run_view
        titles.first().show_run(run_view, frozen=self.app.frozen)
        self.show_run(run_view, changed)

    def show_run(self, run_view: RunView | None, changed: EventTypes | None) -> None:
        """Update the body. Called four times a second during a run, and when the screen is shown.

        Args:
            run_view: the displayed run; None if there is none.
            changed: types of the events since the last call; None if anything may have changed.
        """

    def handle_escape(self) -> bool:
        """Close a search, an editor, or a maximized pane on Escape. Returns False if none is open."""
        return False

    def move_cursor(self, direction: str) -> None:
        """Move the cursor of the focused widget; `direction` is down, up, top, or bottom."""
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
