"""Modal dialogs: yes-or-no question, consent, quit confirmation, and error panel."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from ida_tui.errors import IdaError
from ida_tui.util.text import one_line

if TYPE_CHECKING:
    from ida_tui.config.trust.consent import ConsentRequired

NO, YES = "no", "yes"


class QuitChoice(Enum):
    """What to do with a live run on quitting."""

    STOP = "stop"
    """Stop the run, then close the app."""
    DETACH = "detach"
    """Let the run go on in the background, and close the app."""
    STAY = "stay"
    """Do not close the app."""


class ConfirmDialog(ModalScreen[bool]):
    """A question with two answers; Escape means no."""

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
        """Close the dialog with the answer."""
        self.dismiss(answer)


class ConsentDialog(ModalScreen[bool]):
    """The question whether somebody else's file may do what it asks for; Escape and Enter mean no.

    Args:
        required: the missing agreements.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape", "answer(False)", "No"),
    ]

    def __init__(self, required: ConsentRequired) -> None:
        super().__init__()
        self._required = required

    def compose(self) -> ComposeResult:
        where = one_line(self._required.where)
        questions = [f"It {one_line(consent.description())}." for consent in self._required.missing]
        kept = "A yes is remembered; you will not be asked again."
        with Vertical(classes="panel -error", id="consent"):
            yield Static("This profile is not yours. Agree?", classes="panel-title", markup=False)
            with VerticalScroll(id="consent-text", can_focus=True):
                yield Static("\n\n".join([*questions, f"{where}\n{kept}"]), markup=False)
            yield OptionList(
                Option("n  Do not agree", NO), Option("y  Agree, now and later", YES),
                id="consent-answers",
            )  # fmt: skip

    def on_mount(self) -> None:
        self.query_one(OptionList).focus()

    @on(OptionList.OptionSelected)
    def _on_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.action_answer(event.option.id == YES)

    def action_answer(self, answer: bool) -> None:
        """Close the dialog with the answer."""
        self.dismiss(answer)


class QuitDialog(ModalScreen[QuitChoice]):
    """The question on quitting during a live run: stop, move to the background, or stay (Escape)."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter,s", "answer('stop')", "Stop"),
        Binding("d,t", "answer('detach')", "Detach"),
        Binding("n,escape", "answer('stay')", "Cancel"),
    ]

    def compose(self) -> ComposeResult:
        with Vertical(classes="panel"):
            yield Static("A run is live. Stop it and quit?", classes="panel-title", markup=False)
            yield Static(
                "Stopping discards the current step and saves the last finished step. Detaching lets "
                "the run go on in the background without a break; ida-tui attach shows it again.",
                markup=False,
            )
            yield Static("\n[b]y[/] Stop and quit    [b]d[/] Detach and quit    [b]n[/] Cancel")

    def action_answer(self, choice: str) -> None:
        """Close the dialog with the value of a `QuitChoice`."""
        self.dismiss(QuitChoice(choice))


class ErrorDialog(ModalScreen[None]):
    """An error: what is wrong, where, and how to fix it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q,space", "close", "Close"),
    ]

    def __init__(self, error: IdaError) -> None:
        super().__init__()
        self._error = error

    def compose(self) -> ComposeResult:
        title, *rest = (one_line(line) for line in self._error.lines())
        with Vertical(classes="panel -error"):
            yield Static(title, classes="panel-title", markup=False)
            yield Static("\n".join(rest), markup=False)
            yield Static("\n[b]esc[/] Close")

    def action_close(self) -> None:
        """Close the panel."""
        self.dismiss()
