"""The completions screen."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import Static

from ida_tui.tui.actions import Scope, bindings
from ida_tui.tui.screens.base import IdaScreen


class CompletionsScreen(IdaScreen):
    """The completions screen."""

    SCOPE: ClassVar[Scope] = "completions"
    TITLE = "Completions"
    BINDINGS: ClassVar[list[BindingType]] = bindings(SCOPE)

    def compose_body(self) -> ComposeResult:
        """The widgets between title and footer."""
        yield Static("Completions")
