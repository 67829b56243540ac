"""Read-only app for the browser: renders the screens of one run without a terminal.

Only the actions in `READ_ONLY_ACTIONS` are allowed. Keys reach the app only through `press`; there is no
mouse and no palette.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from rich.console import RenderableType
from rich.segment import Segment
from rich.style import Style

from ida_tui.tui import actions
from ida_tui.tui.app import IdaApp
from ida_tui.tui.run_controller import RunController
from ida_tui.tui.screens.base import IdaScreen
from ida_tui.tui.screens.dialogs import ErrorDialog

if TYPE_CHECKING:
    from ida_tui.config.schema import Config, JudgeKey
    from ida_tui.runs.control import ControlRequest

SCREEN_SIZE = (120, 40)
"""Columns and rows. The page scales them to its window, so that all viewers see the same screen."""
FRAME_SECONDS = 0.1
"""Shortest time in seconds between two frames."""

MOUNT_POLL_S = 0.01
"""Seconds between two checks whether a new screen is ready."""

READ_ONLY_ACTIONS = frozenset(
    {
        "go('run')", "go('completions')", "cursor_down", "cursor_up", "cursor_top", "cursor_bottom",
        "focus_next", "focus_previous", "pane('progress')", "pane('scores')", "pane('judge')",
        "pane('memory')", "pane('health')", "pane('log')", "step_back", "step_forward", "latest_step",
        "next_step", "previous_step", "follow", "sort_reward", "sort_advantage", "sort_group",
        "side_by_side",
    }
)  # fmt: skip
"""Ids of the read-only actions of `ida_tui.tui.actions`."""


class Span(NamedTuple):
    """Text in one style. It is sent to the browser as an array."""

    text: str
    width: int
    """Columns."""
    color: str
    """`#rrggbb`; empty for the default."""
    background: str
    """`#rrggbb`; empty for the default."""
    style: str
    """Letters of `biud`: bold, italic, underlined, struck through (d)."""


ScreenRow = tuple[Span, ...]


class ReadOnlyRunController(RunController):
    """Shows a run and ignores all requests to change it."""

    def start(self, config: Config, key: JudgeKey) -> None:
        """Ignore the request."""

    def send_request(self, request: ControlRequest) -> None:
        """Ignore the request."""


class WebApp(IdaApp):
    """The app of one run, rendered to rows for a browser.

    Args:
        directory: directory of a live or finished run.
        on_frame: called with all rows of the screen after a change.
    """

    def __init__(self, directory: Path, on_frame: Callable[[list[ScreenRow]], None]) -> None:
        super().__init__(open_directory=directory)
        self.run_controller = ReadOnlyRunController(self)
        self._on_frame = on_frame
        self._stale = True
        self._stopping = False

    async def on_mount(self) -> None:
        """Start drawing changed screens, at most ten times a second."""
        self.set_interval(FRAME_SECONDS, self._draw, name="frames")

    def allows(self, action: str, parameters: tuple[object, ...]) -> bool:
        """Whether the action is read-only."""
        arguments = ", ".join(map(repr, parameters))
        return (f"{action}({arguments})" if arguments else action) in READ_ONLY_ACTIONS

    async def press(self, key: str) -> None:
        """Run the action of a key if it is read-only, and wait until it has run.

        Args:
            key: a key name as Textual spells it.
        """
        handled = asyncio.Event()
        if self.call_later(self._handle_key, key, handled):
            await handled.wait()

    def stop(self) -> None:
        """Exit after the key that is being handled; keys that still wait are ignored."""
        self._stopping = True
        self.call_later(self.exit)

    async def _handle_key(self, key: str, handled: asyncio.Event) -> None:
        try:
            if not self._stopping:
                await self._run_key(key)
                # An app that exits while a screen is being built reports an error.
                while not self.screen.is_mounted:
                    await asyncio.sleep(MOUNT_POLL_S)
        finally:
            handled.set()

    async def _run_key(self, key: str) -> None:
        screen = self.screen
        if isinstance(screen, ErrorDialog) and key == "escape":
            screen.action_close()
        if not isinstance(screen, IdaScreen):
            return
        for action in (*actions.actions_of(screen.SCOPE), *actions.actions_of("everywhere")):
            if key in action.keys and action.id in READ_ONLY_ACTIONS:
                await self.run_action(action.id, self if action.scope == "everywhere" else screen)

    def post_display_hook(self) -> None:
        """Called by Textual after it has drawn."""
        self._stale = True

    def _draw(self) -> None:
        if self._stale:
            self._stale = False
            self._on_frame(self.screen_rows())

    def screen_rows(self) -> list[ScreenRow]:
        """The current screen as rows of spans."""
        update = self.screen._compositor.render_update(
            full=True, screen_stack=self._background_screens, simplify=True
        )
        segments = Segment.filter_control(self.console.render(cast(RenderableType, update)))
        return [tuple(map(_span_of, line)) for line in Segment.split_lines(segments)]


def _span_of(segment: Segment) -> Span:
    style = segment.style or Style.null()
    color, background = (
        c.get_truecolor().hex if c and not c.is_default else ""
        for c in (style.color, style.bgcolor)
    )
    if style.reverse:
        color, background = background, color
    flags = (style.bold, style.italic, style.underline, style.strike)
    letters = "".join(letter for letter, is_set in zip("biud", flags, strict=True) if is_set)
    return Span(segment.text, segment.cell_length, color, background, letters)
