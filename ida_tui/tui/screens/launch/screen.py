"""The launch screen: choose a model, an experiment and a judge, see what that means, start."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import DataTable, Input, OptionList, Static

from ida_tui.config import profiles
from ida_tui.config.profiles import Kind
from ida_tui.errors import IdaError, UsageError
from ida_tui.tui.actions import Scope, bindings
from ida_tui.tui.screens.base import IdaScreen
from ida_tui.tui.screens.dialogs import Ask
from ida_tui.tui.screens.launch.profile_list import Choices, Item
from ida_tui.tui.screens.launch.profile_table import ProfileTable
from ida_tui.util.text import printable

if TYPE_CHECKING:
    from ida_tui.tui.screens.launch.model import Desk

PROPOSED = "quickstart"
"""The experiment that is chosen at first: it runs everywhere."""
LISTS: dict[Kind, str] = {"models": "Models", "experiments": "Experiments", "judges": "Judges"}
MARKS = {
    "ready": ("✓", "$text-success"),
    "note": ("!", "$text-warning"),
    "missing": ("✗", "bold $text-error"),
}
NOT_EDITED = ("prompts.prompts",)
"""Keys whose values are edited in their own file."""


class LaunchScreen(IdaScreen):
    """Three lists on the left; on the right the profile they make, and whether it can start.

    The first paint shows the names of the profiles; what they mean is worked out right after it, by the
    `Desk`.
    """

    SCOPE: ClassVar[Scope] = "launch"
    TITLE = "Launch"
    BINDINGS: ClassVar[list[BindingType]] = bindings(SCOPE)

    def __init__(self) -> None:
        super().__init__()
        self._desk: Desk | None = None
        self._start_asked = False
        self._letters = ""
        self._filtering: Widget | None = None

    def compose_body(self) -> ComposeResult:
        """Lists and description on the left, profile and readiness on the right."""
        with Horizontal(id="launch"):
            with Vertical(id="lists"):
                for kind, title in LISTS.items():
                    names = list(profiles.names(kind))
                    items = [Item(name, name, "") for name in names]
                    if kind == "experiments":
                        chosen = PROPOSED if PROPOSED in names else next(iter(names), "")
                    else:
                        items.insert(0, Item("", "its own", ""))
                        chosen = ""
                    yield Choices(title, items, chosen, id=kind)
                yield Static(id="about", classes="pane", markup=False)
            with Vertical(id="plan"):
                yield ProfileTable(self._problem_of)
                with VerticalScroll(id="ready", classes="pane", can_focus=True):
                    yield Static(id="ready-text", markup=False)
        yield Input(id="filter", placeholder="letters to look for", select_on_focus=False)

    def on_mount(self) -> None:
        self.query_one("#filter").display = False
        self.query_one("#ready").border_title = "Ready?"
        self.query_one("#experiments").focus()
        self.call_after_refresh(self._open_the_desk)

    def on_screen_resume(self) -> None:
        self._look_for_past_runs()

    def fit(self) -> None:
        """The table is drawn to measure."""
        self.call_after_refresh(self._show)

    @work(group="desk")
    async def _open_the_desk(self) -> None:
        module = await asyncio.to_thread(
            importlib.import_module, "ida_tui.tui.screens.launch.model"
        )
        experiment = self.query_one("#experiments", Choices).chosen.name
        self._desk = module.Desk(experiment, Path.cwd())
        self._show()
        self._look_for_past_runs()
        if self._start_asked:
            self.action_start()

    # -- what is chosen -----------------------------------------------------------------------

    @on(Choices.Chosen)
    def _chosen(self, event: Choices.Chosen) -> None:
        kind = next((kind for kind in LISTS if kind == event.choices.id), None)
        if self._desk is not None and kind is not None:
            self._desk.choose(kind, event.choices.chosen.name)
            self._show()
            self._look_for_past_runs()

    def _problem_of(self, key: str, text: str) -> UsageError | None:
        return self._desk.problem_of(key, text) if self._desk is not None else None

    def _show(self) -> None:
        desk = self._desk
        if desk is None or not self.query("#ready-text"):
            return  # still being made
        for kind in LISTS:
            self.query_one(f"#{kind}", Choices).set_items(desk.items(kind))
        changed = len(desk.choice.changes)
        title = f"Profile {desk.choice.experiment}"
        title += f" · {changed} changed" if changed else ""
        title += f" · “{self._letters}”" if self._letters else ""
        self.query_one(ProfileTable).show(desk.rows(self._letters), title)
        self._show_about()
        self.query_one("#ready-text", Static).update(_ready_text(desk))
        said = "not ready" if desk.missing else "enter starts"
        self.query_one("#ready").border_subtitle = said

    def _show_about(self) -> None:
        if not self.query("#about"):
            return
        focused = self.focused if isinstance(self.focused, Choices) else None
        item = (focused or self.query_one("#experiments", Choices)).chosen
        about = self.query_one("#about", Static)
        about.border_title = Content(printable(item.label))
        about.update(Content(printable(item.about)))

    def on_descendant_focus(self) -> None:
        self._show_about()

    @work(exclusive=True, group="past")
    async def _look_for_past_runs(self) -> None:
        """The time that the same experiment took the last time; read off the screen's thread."""
        if self._desk is not None:
            await asyncio.to_thread(self._desk.look_for_past_runs, self.app.output_dir)
            self._show()

    # -- actions ------------------------------------------------------------------------------

    @on(OptionList.OptionSelected)
    def _selected(self) -> None:
        self.action_start()

    @on(DataTable.RowSelected)
    def _row_selected(self) -> None:
        self.action_edit()

    def action_start(self) -> None:
        """Start the run; what is missing is said instead."""
        if self._desk is None:
            self._start_asked = True  # a moment later, when it is known what the choice means
            return
        self._desk.look()
        self._show()
        missing = self._desk.missing
        if missing:
            said = "\n".join(f"{c.name}: {c.text}\n  {c.fix}".rstrip() for c in missing)
            self.app.show_error(IdaError("this run cannot start yet", said))
            return
        try:
            config, key = self._desk.start()
        except IdaError as error:
            self.app.show_error(error)
            return
        self.app.start_run(config, key)

    def action_edit(self) -> None:
        """Edit the value under the cursor."""
        profile = self.query_one(ProfileTable)
        row = profile.row
        if row is None or self._desk is None or row.heading:
            self.notify("Choose a value first: tab, then the arrows.")
        elif row.key.startswith(NOT_EDITED):
            self.notify(f"Prompts are edited in their file: {row.origin}")
        else:
            profile.values.focus()
            profile.edit(self._desk.typed(row.key))

    @on(ProfileTable.Edited)
    def _edited(self, event: ProfileTable.Edited) -> None:
        if self._desk is not None:
            self._desk.change(event.key, event.text)
            self._show()

    def action_undo(self) -> None:
        """Take back the change to the value under the cursor."""
        row = self.query_one(ProfileTable).row
        if self._desk is None or row is None or row.key not in self._desk.choice.changes:
            self.notify("This value was not changed.")
            return
        self._desk.undo(row.key)
        self._show()

    def action_undo_all(self) -> None:
        """Take back every change."""
        if self._desk is None or not self._desk.choice.changes:
            self.notify("Nothing was changed.")
            return
        self._desk.undo(*self._desk.choice.changes)
        self._show()

    def action_recheck(self) -> None:
        """Look again at device, model, key and disk."""
        if self._desk is not None:
            self._desk.look()
            self._show()
            self.notify("Checked again.")

    def action_check_judge(self) -> None:
        """Have ten fixed answers scored by the chosen judge; one that costs money is asked about first."""
        if self._desk is None:
            return
        try:
            config, key = self._desk.start()
        except IdaError as error:
            self.app.show_error(error)
            return
        from ida_tui.tui.screens.launch.judge_check import SAMPLES, JudgeCheckPanel

        def answered(go_on: bool | None) -> None:
            if go_on:
                self.app.push_screen(JudgeCheckPanel(config, key))

        price = config.judge.price
        if price is not None and not (price.input or price.output):
            answered(True)
            return
        name = config.judge.name or config.judge.model
        self.app.push_screen(
            Ask(
                f"Check the judge {name}?",
                f"It is asked about ten fixed answers, {SAMPLES} times each, and that is paid for.",
                yes="Check",
                no="Not now",
            ),
            answered,
        )

    async def action_past_runs(self) -> None:
        """Open the list of past runs."""
        await self.app.action_go("runs")

    # -- filtering ----------------------------------------------------------------------------

    def action_filter(self) -> None:
        """Type letters; the list that has the focus shows what has them."""
        focused = self.focused
        values = self.query_one(ProfileTable).values
        if not isinstance(focused, Choices) and focused is not values:
            focused = self.query_one("#experiments", Choices)
        self._filtering = focused
        field = self.query_one("#filter", Input)
        field.value = focused.letters if isinstance(focused, Choices) else self._letters
        field.display = True
        field.focus()

    @on(Input.Changed, "#filter")
    def _filter_typed(self, event: Input.Changed) -> None:
        if isinstance(self._filtering, Choices):
            self._filtering.filter(event.value)
        elif self._filtering is not None:
            self._letters = event.value
            self._show()

    @on(Input.Submitted, "#filter")
    def _filter_kept(self) -> None:
        self.query_one("#filter").display = False
        if self._filtering is not None:
            self._filtering.focus()

    def leave(self) -> bool:
        """Leave the editor or the filter; then show everything that was filtered again."""
        if self.query_one(ProfileTable).leave():
            return True
        field = self.query_one("#filter", Input)
        if field.display:
            field.value = ""
            self._filter_kept()
            return True
        filtered = [c for c in self.query(Choices) if c.letters]
        for choices in filtered:
            choices.filter("")
        if self._letters:
            self._letters = ""
            self._show()
            return True
        return bool(filtered)


def _ready_text(desk: Desk) -> Content:
    lines = []
    for check in desk.checks:
        mark, style = MARKS[check.status]
        lines.append(Content.assemble((mark, style), printable(f" {check.name:<8} {check.text}")))
        if check.status != "ready" and check.fix:
            lines.append(
                Content.assemble((printable(f"{'':<11}{check.fix.splitlines()[0]}"), "dim"))
            )
    lines.append(Content(""))
    for label, text in desk.known():
        first, *rest = text.splitlines()
        lines.append(Content.assemble((f"  {label:<13}", "dim"), printable(first)))
        lines += [Content(f"{'':<15}{printable(line)}") for line in rest]
    return Content("\n").join(lines)
