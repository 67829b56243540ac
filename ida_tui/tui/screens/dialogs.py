"""Panels over a screen: a question to answer, an error to read."""

from __future__ import annotations

from typing import ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from ida_tui.errors import IdaError
from ida_tui.util.text import printable

Answer = Literal["stop", "detach", "stay"]


class Ask(ModalScreen[bool]):
    """A question with two answers; escape is no."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "answer(True)", "Yes"),
        Binding("n,escape", "answer(False)", "No"),
    ]

    def __init__(self, question: str, detail: str, *, yes: str, no: str) -> None:
        super().__init__()
        self._question, self._detail, self._yes, self._no = question, detail, yes, no

    def compose(self) -> ComposeResult:
        with Vertical(classes="panel"):
            yield Static(self._question, classes="panel-title", markup=False)
            yield Static(self._detail, markup=False)
            yield Static(f"\n[b]y[/] {self._yes}    [b]n[/] {self._no}")

    def action_answer(self, answer: bool) -> None:
        """Leave with the answer."""
        self.dismiss(answer)


class AskHowToLeave(ModalScreen[Answer]):
    """A run is live here: stop it, let another process train on, or stay; escape stays."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter,s", "answer('stop')", "Stop"),
        Binding("d,t", "answer('detach')", "Train on"),
        Binding("n,escape", "answer('stay')", "Stay"),
    ]

    def compose(self) -> ComposeResult:
        with Vertical(classes="panel"):
            yield Static("A run is live. Stop it and leave?", classes="panel-title", markup=False)
            yield Static(
                "Stopping saves a checkpoint of the last finished step first. Or it trains on in a "
                "process of its own, after the step under way; ida-tui attach finds it again.",
                markup=False,
            )
            yield Static(
                "\n[b]y[/] Stop and leave    [b]d[/] Train on without the terminal    [b]n[/] Stay"
            )

    def action_answer(self, answer: Answer) -> None:
        """Leave with the answer."""
        self.dismiss(answer)


class ErrorPanel(ModalScreen[None]):
    """What is wrong, where, and what to do; any of its keys leaves it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q,space", "leave", "Close"),
    ]

    def __init__(self, error: IdaError) -> None:
        super().__init__()
        self._error = error

    def compose(self) -> ComposeResult:
        title, *rest = (printable(line) for line in self._error.lines())
        with Vertical(classes="panel -error"):
            yield Static(title, classes="panel-title", markup=False)
            yield Static("\n".join(rest), markup=False)
            yield Static("\n[b]esc[/] Close")

    def action_leave(self) -> None:
        """Back to the screen below."""
        self.dismiss()
