"""Launch screen: lists of models, experiments, and judges, the resolved profile, and readiness checks."""

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
"""The experiment selected at first; it runs on every machine."""
LISTS: dict[Kind, str] = {"models": "Models", "experiments": "Experiments", "judges": "Judges"}
MARKS = {
    "ready": ("✓", "$text-success"),
    "note": ("!", "$text-warning"),
    "missing": ("✗", "bold $text-error"),
}
NOT_EDITED = ("prompts.prompts",)
"""Keys whose values can be edited only in their file."""


class LaunchScreen(IdaScreen):
    """Three lists on the left; the resolved profile and the readiness checks on the right.

    The first paint shows only the names of the profiles. The `Desk` resolves them afterwards.
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
        """Lists and description on the left, profile and readiness checks on the right."""
        with Horizontal(id="launch"):
            with Vertical(id="lists"):
                for kind, title in LISTS.items():
                    names = list(profiles.names(kind))
                    items = [Item(name, name, "") for name in names]
                    if kind == "experiments":
                        chosen = PROPOSED if PROPOSED in names else next(iter(names), "")
                    else:
                        items.insert(0, Item("", "profile default", ""))
                        chosen = ""
                    yield Choices(title, items, chosen, id=kind)
                yield Static(id="about", classes="pane", markup=False)
            with Vertical(id="plan"):
                yield ProfileTable(self._problem_of)
                with VerticalScroll(id="ready", classes="pane", can_focus=True):
                    yield Static(id="ready-text", markup=False)
        yield Input(id="filter", placeholder="filter", select_on_focus=False)

    def on_mount(self) -> None:
        self.query_one("#filter").display = False
        self.query_one("#ready").border_title = "Ready?"
        self.query_one("#experiments").focus()
        self.call_after_refresh(self._open_the_desk)

    def on_screen_resume(self) -> None:
        self._look_for_past_runs()

    def fit(self) -> None:
        """Redraw the table: its columns depend on the width."""
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

    # -- selection ----------------------------------------------------------------------------

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
            return  # not composed yet
        for kind in LISTS:
            self.query_one(f"#{kind}", Choices).set_items(desk.items(kind))
        edited = len(desk.choice.changes)
        title = f"Profile {desk.choice.experiment}"
        title += f" · {edited} edited" if edited else ""
        title += f" · “{self._letters}”" if self._letters else ""
        self.query_one(ProfileTable).show(desk.rows(self._letters), title)
        self._show_about()
        self.query_one("#ready-text", Static).update(_ready_text(desk))
        hint = "not ready" if desk.missing else "enter: start"
        self.query_one("#ready").border_subtitle = hint

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
        """Find the duration of the previous run in a thread, because it reads the disk."""
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
        """Start the run, or show why it cannot start."""
        if self._desk is None:
            self._start_asked = True  # start after the selection has been resolved
            return
        self._desk.look()
        self._show()
        missing = self._desk.missing
        if missing:
            hint = "\n".join(f"{c.name}: {c.text}\n  {c.fix}".rstrip() for c in missing)
            self.app.show_error(IdaError("this run cannot start yet", hint))
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
            self.notify("Select a value first: press Tab, then the arrow keys.")
        elif row.key.startswith(NOT_EDITED):
            self.notify(f"Edit prompts in their file: {row.origin}")
        else:
            profile.values.focus()
            profile.edit(self._desk.typed(row.key))

    @on(ProfileTable.Edited)
    def _edited(self, event: ProfileTable.Edited) -> None:
        if self._desk is not None:
            self._desk.change(event.key, event.text)
            self._show()

    def action_undo(self) -> None:
        """Undo the edit of the value under the cursor."""
        row = self.query_one(ProfileTable).row
        if self._desk is None or row is None or row.key not in self._desk.choice.changes:
            self.notify("This value has not been edited.")
            return
        self._desk.undo(row.key)
        self._show()

    def action_undo_all(self) -> None:
        """Undo all edits."""
        if self._desk is None or not self._desk.choice.changes:
            self.notify("No value has been edited.")
            return
        self._desk.undo(*self._desk.choice.changes)
        self._show()

    def action_recheck(self) -> None:
        """Check device, model, API key, and disk again."""
        if self._desk is not None:
            self._desk.look()
            self._show()
            self.notify("Checked again.")

    def action_check_judge(self) -> None:
        """Test the selected judge on ten known answers. Asks first if the judge costs money."""
        if self._desk is None:
            return
        try:
            config, key = self._desk.start()
        except IdaError as error:
            self.app.show_error(error)
            return
        from ida_tui.tui.screens.launch.judge_check import SAMPLES, JudgeCheckPanel

        def answered(confirmed: bool | None) -> None:
            if confirmed:
                self.app.push_screen(JudgeCheckPanel(config, key))

        price = config.judge.price
        if price is not None and not (price.input or price.output):
            answered(True)
            return
        name = config.judge.name or config.judge.model
        self.app.push_screen(
            Ask(
                f"Check the judge {name}?",
                f"Sends {10 * SAMPLES} paid requests (10 answers × {SAMPLES}).",
                yes="Check",
                no="Cancel",
            ),
            answered,
        )

    async def action_past_runs(self) -> None:
        """Open the list of past runs."""
        await self.app.action_go("runs")

    # -- filtering ----------------------------------------------------------------------------

    def action_filter(self) -> None:
        """Open the filter of the focused list."""
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
        """Close the editor or the filter field; if neither is open, clear all filters."""
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
