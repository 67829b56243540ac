"""A run that waits for a person: what is wrong, and what it can go on with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from ida_tui.config import profiles
from ida_tui.config.schema import JudgeConfig
from ida_tui.engine.run.decision import GoOn
from ida_tui.errors import IdaError
from ida_tui.events.types import RunPaused
from ida_tui.util.text import printable

Stop = Literal["stop"]
AGAIN, STOP, BUDGET = "again", "stop", "budget"


class PausedPanel(ModalScreen[GoOn | Stop]):
    """Go on with the same judge, with another, with more money; or stop.

    Args:
        paused: why the run waits.
        judge: the judge in use.
        budget: US dollars it may cost; null is no limit.
        find_key: the API key of a judge, looked for anew; raises IdaError where it is missing.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "choose('again')", "Try again"),
        Binding("s", "choose('stop')", "Stop"),
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
    ]

    def __init__(
        self,
        paused: RunPaused,
        judge: JudgeConfig,
        budget: float | None,
        find_key: Callable[[JudgeConfig], str | None],
    ) -> None:
        super().__init__()
        self._paused = paused
        self._judge = judge
        self._budget = budget
        self._find_key = find_key

    def compose(self) -> ComposeResult:
        with Vertical(classes="panel", id="paused"):
            title = f"Paused after step {self._paused.step}: {printable(self._paused.reason)}"
            yield Static(title, classes="panel-title", markup=False)
            hint = "\n".join(printable(line) for line in self._paused.hint.splitlines())
            kept = "What was finished is saved, and so are the verdicts that came in."
            yield Static(f"{hint}\n\n{kept}\n", markup=False, id="paused-hint")
            yield OptionList(*self._options(), id="paused-options", markup=False)

    def on_mount(self) -> None:
        self.query_one(OptionList).focus()

    def _options(self) -> list[Option]:
        options = [
            Option(f"r  try again with {_called(self._judge)} (the key is read anew)", AGAIN)
        ]
        if self._budget is not None:
            options.append(Option(f"   go on with a budget of ${2 * self._budget:g}", BUDGET))
        options += [
            Option(f"   go on with the judge {name}", f"judge:{name}")
            for name in profiles.names("judges")
            if name != self._judge.name
        ]
        return [*options, Option("s  stop, and resume some other time", STOP)]

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self.action_choose(event.option.id or STOP)

    def action_choose(self, choice: str) -> None:
        """Leave with the answer; what stands in its way is said in the panel."""
        if choice == STOP:
            self.dismiss("stop")
            return
        try:
            self.dismiss(self._answer(choice))
        except IdaError as error:
            lines = "\n".join(printable(line) for line in error.lines())
            self.query_one("#paused-hint", Static).update(f"{lines}\n")

    def action_cursor_down(self) -> None:
        """Move down."""
        self.query_one(OptionList).action_cursor_down()

    def action_cursor_up(self) -> None:
        """Move up."""
        self.query_one(OptionList).action_cursor_up()

    def _answer(self, choice: str) -> GoOn:
        judge, budget = self._judge, self._budget
        if choice == BUDGET and budget is not None:
            budget *= 2
        elif choice.startswith("judge:"):
            from ida_tui.config.resolve import resolve_profile

            found = resolve_profile("judges", choice.removeprefix("judge:")).config
            assert isinstance(found, JudgeConfig)
            judge = found
        return GoOn(judge, self._find_key(judge), budget)


def _called(judge: JudgeConfig) -> str:
    return judge.name or judge.model


def key_in(folder: Path) -> Callable[[JudgeConfig], str | None]:
    """Looks for a judge's key in the environment and in the `.env` of a folder."""

    def find(judge: JudgeConfig) -> str | None:
        from ida_tui.judge.api_key import load_key

        return load_key(judge, dotenv_dir=folder)

    return find
