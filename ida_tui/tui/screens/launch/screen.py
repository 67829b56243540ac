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
from ida_tui.config.profiles import ProfileKind
from ida_tui.errors import IdaError, UsageError
from ida_tui.tui.actions import Scope, bindings_for
from ida_tui.tui.screens.base import IdaScreen
from ida_tui.tui.screens.dialogs import ConfirmDialog
from ida_tui.tui.screens.launch.profile_list import ProfileItem, ProfileList
from ida_tui.tui.screens.launch.profile_table import ProfileTable
from ida_tui.tui.widgets.filter_field import FilterField
from ida_tui.util.text import one_line

if TYPE_CHECKING:
    from ida_tui.config.schema import Config, JudgeKey
    from ida_tui.tui.screens.launch.model import LaunchModel

DEFAULT_EXPERIMENT = "quickstart"
"""The experiment selected at first; it runs on every machine."""
LIST_TITLES: dict[ProfileKind, str] = {
    "models": "Models",
    "experiments": "Experiments",
    "judges": "Judges",
}
CHECK_MARKS = {
    "good": ("✓", "$text-success"),
    "note": ("!", "$text-warning"),
    "error": ("✗", "bold $text-error"),
}
READ_ONLY_KEYS = ("prompts.prompts",)
"""Keys whose values can be edited only in their file."""


class LaunchScreen(IdaScreen):
    """Three lists on the left; the resolved profile and the readiness checks on the right.

    The first paint shows only the names of the profiles. The `LaunchModel` resolves them afterwards.
    """

    SCOPE: ClassVar[Scope] = "launch"
    TITLE = "Launch"
    BINDINGS: ClassVar[list[BindingType]] = bindings_for(SCOPE)

    def __init__(self) -> None:
        super().__init__()
        self._model: LaunchModel | None = None
        self._start_requested = False
        self._filter_text = ""
        self._filtered_widget: Widget | None = None

    def compose_body(self) -> ComposeResult:
        """Lists and description on the left, profile and readiness checks on the right."""
        with Horizontal(id="launch"):
            with Vertical(id="lists"):
                for kind, title in LIST_TITLES.items():
                    names = list(profiles.list_profiles(kind))
                    items = [ProfileItem(name, name, "") for name in names]
                    if kind == "experiments":
                        selected = (
                            DEFAULT_EXPERIMENT
                            if DEFAULT_EXPERIMENT in names
                            else next(iter(names), "")
                        )
                    else:
                        items.insert(0, ProfileItem("", "profile default", ""))
                        selected = ""
                    yield ProfileList(title, items, selected, id=kind)
                yield Static(id="profile-description", classes="pane", markup=False)
            with Vertical(id="profile-and-checks"):
                yield ProfileTable(self._validate)
                with VerticalScroll(id="readiness", classes="pane", can_focus=True):
                    yield Static(id="readiness-text", markup=False)
        yield FilterField(lambda: self._filtered_widget, id="filter")

    def on_mount(self) -> None:
        self.query_one("#readiness").border_title = "Ready?"
        self.query_one("#experiments").focus()
        self.call_after_refresh(self._load_model)

    def on_screen_resume(self) -> None:
        self._find_previous_run()

    def apply_size(self) -> None:
        """Redraw the table: its columns depend on the width."""
        self.call_after_refresh(self._show)

    @work(group="model")
    async def _load_model(self) -> None:
        module = await asyncio.to_thread(
            importlib.import_module, "ida_tui.tui.screens.launch.model"
        )
        experiment = self.query_one("#experiments", ProfileList).selected_item.name
        self._model = module.LaunchModel(experiment, Path.cwd())
        self._show()
        self._find_previous_run()
        if self._start_requested:
            self.action_start()

    # -- selection ----------------------------------------------------------------------------

    @on(ProfileList.Selected)
    def _on_profile_selected(self, event: ProfileList.Selected) -> None:
        kind = next((kind for kind in LIST_TITLES if kind == event.profile_list.id), None)
        if self._model is not None and kind is not None:
            self._model.select(kind, event.profile_list.selected_item.name)
            self._show()
            self._find_previous_run()

    def _validate(self, key: str, text: str) -> UsageError | None:
        return self._model.validate(key, text) if self._model is not None else None

    def _show(self) -> None:
        model = self._model
        if model is None or not self.query("#readiness-text"):
            return  # not composed yet
        for kind in LIST_TITLES:
            self.query_one(f"#{kind}", ProfileList).set_items(model.profile_items(kind))
        edited = len(model.selection.edits)
        title = f"Profile {model.selection.experiment}"
        title += f" · {edited} edited" if edited else ""
        title += f" · “{self._filter_text}”" if self._filter_text else ""
        self.query_one(ProfileTable).show_rows(model.rows(self._filter_text), title)
        self._show_description()
        self.query_one("#readiness-text", Static).update(readiness_text(model))
        hint = "not ready" if model.failed_checks else "enter: start"
        self.query_one("#readiness").border_subtitle = hint

    def _show_description(self) -> None:
        if not self.query("#profile-description"):
            return
        focused = self.focused if isinstance(self.focused, ProfileList) else None
        item = (focused or self.query_one("#experiments", ProfileList)).selected_item
        about = self.query_one("#profile-description", Static)
        about.border_title = Content(one_line(item.label))
        about.update(Content(one_line(item.description)))

    def on_descendant_focus(self) -> None:
        self._show_description()

    @work(exclusive=True, group="previous_run")
    async def _find_previous_run(self) -> None:
        """Find the duration of the previous run in a thread, because it reads the disk."""
        if self._model is not None:
            await asyncio.to_thread(self._model.find_previous_run, self.app.output_dir)
            self._show()

    # -- actions ------------------------------------------------------------------------------

    @on(OptionList.OptionSelected)
    def _on_option_selected(self) -> None:
        self.action_start()

    @on(DataTable.RowSelected)
    def _on_row_selected(self) -> None:
        self.action_edit()

    def action_start(self) -> None:
        """Start the run, or show why it cannot start."""
        if self._model is None:
            self._start_requested = True  # start after the selection has been resolved
            return
        self._model.refresh()
        self._show()
        missing = self._model.failed_checks
        if missing:
            hint = "\n".join(f"{c.about}: {c.text}\n  {c.fix}".rstrip() for c in missing)
            self.app.show_error(IdaError("this run cannot start yet", hint))
            return
        try:
            config, key = self._model.resolve_for_start()
        except IdaError as error:
            self.app.show_error(error, self.action_start)
            return
        self.app.run_controller.start(config, key)

    def action_edit(self) -> None:
        """Edit the value under the cursor."""
        profile = self.query_one(ProfileTable)
        row = profile.selected_row
        if row is None or self._model is None or row.is_heading:
            self.notify("Select a value first: press Tab, then the arrow keys.")
        elif row.key.startswith(READ_ONLY_KEYS):
            self.notify(f"Prompts cannot be changed here. Edit their file: {row.origin}")
        else:
            profile.value_table.focus()
            profile.open_editor(self._model.editable_value(row.key))

    @on(ProfileTable.Edited)
    def _on_value_edited(self, event: ProfileTable.Edited) -> None:
        if self._model is not None:
            self._model.edit(event.key, event.text)
            self._show()

    def action_undo(self) -> None:
        """Undo the edit of the value under the cursor."""
        row = self.query_one(ProfileTable).selected_row
        if self._model is None or row is None or row.key not in self._model.selection.edits:
            self.notify("This value has not been edited.")
            return
        self._model.undo(row.key)
        self._show()

    def action_undo_all(self) -> None:
        """Undo all edits."""
        if self._model is None or not self._model.selection.edits:
            self.notify("No value has been edited.")
            return
        self._model.undo(*self._model.selection.edits)
        self._show()

    def action_recheck(self) -> None:
        """Check device, model, API key, and disk again."""
        if self._model is not None:
            self._model.refresh()
            self._show()
            self.notify("All checks were run again.")

    def action_check_judge(self) -> None:
        """Test the reward functions, then the judge, on known answers. Asks first if that costs money."""
        if self._model is None:
            return
        try:
            config, key = self._model.resolve_for_start(uses=("judge", "functions"))
        except IdaError as error:
            self.app.show_error(error, self.action_check_judge)
            return
        from ida_tui.tui.screens.launch.judge_check import RewardCheckDialog

        rubric = config.rubric
        if not rubric.computed_axes:
            self._check_judge(config, key)
            return
        self.app.push_screen(
            RewardCheckDialog(config),
            lambda _: self._check_judge(config, key) if rubric.judged_axes else None,
        )

    def _check_judge(self, config: Config, key: JudgeKey) -> None:
        from ida_tui.tui.screens.launch.judge_check import CALLS_PER_ANSWER, JudgeCheckDialog

        def on_answer(confirmed: bool | None) -> None:
            if confirmed:
                self.app.push_screen(JudgeCheckDialog(config, key))

        members = config.judge.members
        prices = [member.price for member in members if member.kind != "offline"]
        if all(price is not None and not (price.input or price.output) for price in prices):
            on_answer(True)
            return
        name = config.judge.name or config.judge.model
        requests = 10 * CALLS_PER_ANSWER * len(prices)
        self.app.push_screen(
            ConfirmDialog(
                f"Check the judge {name}?",
                f"Sends {requests} paid requests (10 answers × {requests // 10}).",
                yes="Check",
                no="Cancel",
            ),
            on_answer,
        )

    async def action_past_runs(self) -> None:
        """Open the list of past runs."""
        await self.app.action_go("runs")

    # -- filtering ----------------------------------------------------------------------------

    def action_filter(self) -> None:
        """Open the filter of the focused list."""
        focused = self.focused
        values = self.query_one(ProfileTable).value_table
        if not isinstance(focused, ProfileList) and focused is not values:
            focused = self.query_one("#experiments", ProfileList)
        self._filtered_widget = focused
        text = focused.filter_text if isinstance(focused, ProfileList) else self._filter_text
        self.query_one(FilterField).open(text)

    @on(Input.Changed, "#filter")
    def _on_filter_changed(self, event: Input.Changed) -> None:
        if isinstance(self._filtered_widget, ProfileList):
            self._filtered_widget.set_filter(event.value)
        elif self._filtered_widget is not None:
            self._filter_text = event.value
            self._show()

    def handle_escape(self) -> bool:
        """Close the editor or the filter field; if neither is open, clear all filters."""
        if self.query_one(ProfileTable).cancel_edit():
            return True
        field = self.query_one(FilterField)
        if field.display:
            field.value = ""
            field.close()
            return True
        filtered = [each for each in self.query(ProfileList) if each.filter_text]
        for profile_list in filtered:
            profile_list.set_filter("")
        if self._filter_text:
            self._filter_text = ""
            self._show()
            return True
        return bool(filtered)


def readiness_text(model: LaunchModel) -> Content:
    """The readiness checks, then the preview of the run."""
    lines = []
    for check in model.checks:
        mark, style = CHECK_MARKS[check.severity]
        lines.append(Content.assemble((mark, style), one_line(f" {check.about:<8} {check.text}")))
        if check.severity != "good" and check.fix:
            lines.append(
                Content.assemble((one_line(f"{'':<11}{check.fix.splitlines()[0]}"), "dim"))
            )
    lines.append(Content(""))
    for label, text in model.preview_rows():
        first, *rest = text.splitlines()
        lines.append(Content.assemble((f"  {label:<13}", "dim"), one_line(first)))
        lines += [Content(f"{'':<15}{one_line(line)}") for line in rest]
    return Content("\n").join(lines)
