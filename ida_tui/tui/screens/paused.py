"""Dialog for a run paused by its judge or its reward functions: the error, and the ways to resume or stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from ida_tui.config import profiles
from ida_tui.config.schema import JudgeConfig, JudgeKey
from ida_tui.engine.run.control import ResumeDecision
from ida_tui.errors import IdaError
from ida_tui.events.types import RunPaused
from ida_tui.util.text import multiple_lines, one_line

if TYPE_CHECKING:
    from ida_tui.tui.app import IdaApp

AGAIN, STOP, BUDGET = "again", "stop", "budget"


class PausedDialog(ModalScreen[ResumeDecision | None]):
    """Resume with the same judge, another judge, or a larger budget; or stop, which returns None.

    If the reward functions failed, the judge is not at fault: the only ways are to try again and to stop.

    Args:
        paused: the pause event, with its reason.
        judge: the current judge.
        budget: limit of the judge's cost in US dollars; None is no limit.
        find_key: reads the API key of a judge; raises IdaError if it is missing.
    """

    app: IdaApp

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
        find_key: Callable[[JudgeConfig], JudgeKey],
    ) -> None:
        super().__init__()
        self._paused = paused
        self._judge = judge
        self._budget = budget
        self._find_key = find_key

    def compose(self) -> ComposeResult:
        with Vertical(classes="panel", id="paused"):
            title = f"Paused after step {self._paused.step}: {one_line(self._paused.reason)}"
            yield Static(title, classes="panel-title", markup=False)
            hint = multiple_lines(self._paused.hint)
            saved = "All finished steps and all verdicts received so far are saved."
            yield Static(f"{hint}\n\n{saved}\n", markup=False, id="paused-hint")
            yield OptionList(*self._options(), id="paused-options", markup=False)

    def on_mount(self) -> None:
        self.query_one(OptionList).focus()

    def _options(self) -> list[Option]:
        stop = Option("s  Stop, and resume later", STOP)
        if self._paused.functions_failed:
            return [Option("r  Try again (imports the reward functions again)", AGAIN), stop]
        options = [
            Option(f"r  Try again with {_judge_name(self._judge)} (reads the API key again)", AGAIN)
        ]
        if self._budget is not None:
            options.append(Option(f"   Resume with a budget of ${2 * self._budget:g}", BUDGET))
        options += [
            Option(f"   Resume with the judge {name}", f"judge:{name}")
            for name in profiles.list_profiles("judges")
            if name != self._judge.name
        ]
        return [*options, stop]

    @on(OptionList.OptionSelected)
    def _on_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.action_choose(event.option.id or STOP)

    def action_choose(self, choice: str) -> None:
        """Close the panel with the answer, or show why the answer is not possible."""
        if choice == STOP:
            self.dismiss(None)
            return
        from ida_tui.config.trust.consent import ConsentRequired

        try:
            self.dismiss(self._answer(choice))
        except ConsentRequired as error:
            self.app.show_error(error, lambda: self.action_choose(choice))
        except IdaError as error:
            message = multiple_lines("\n".join(error.lines()))
            self.query_one("#paused-hint", Static).update(f"{message}\n")

    def action_cursor_down(self) -> None:
        """Move the cursor down."""
        self.query_one(OptionList).action_cursor_down()

    def action_cursor_up(self) -> None:
        """Move the cursor up."""
        self.query_one(OptionList).action_cursor_up()

    def _answer(self, choice: str) -> ResumeDecision:
        judge, budget = self._judge, self._budget
        if choice == BUDGET and budget is not None:
            budget *= 2
        elif choice.startswith("judge:"):
            from ida_tui.config.resolve import resolve

            name = choice.removeprefix("judge:")
            resolved = resolve("quickstart", [f"judge={name}"], verify=False, uses=("judge",))
            judge = resolved.config.judge
        return ResumeDecision(judge, self._find_key(judge), budget)


def _judge_name(judge: JudgeConfig) -> str:
    return judge.name or judge.model


def key_finder(directory: Path) -> Callable[[JudgeConfig], JudgeKey]:
    """A function that reads a judge's API key from the environment or the `.env` of a directory."""

    def find(judge: JudgeConfig) -> JudgeKey:
        from ida_tui.judge.api_key import load_api_key

        return load_api_key(judge, dotenv_dir=directory)

    return find
