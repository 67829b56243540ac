"""The launch screen."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import Static

from ida_tui.tui.actions import Scope, bindings
from ida_tui.tui.screens.base import IdaScreen


class LaunchScreen(IdaScreen):
    """The launch screen."""

    SCOPE: ClassVar[Scope] = "launch"
    TITLE = "Launch"
    BINDINGS: ClassVar[list[BindingType]] = bindings(SCOPE)

    def compose_body(self) -> ComposeResult:
        """The widgets between title and footer."""
        yield Static("Launch")
