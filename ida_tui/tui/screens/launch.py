"""The launch screen: choose a model, an experiment and a judge, see what that means, start."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import DataTable, Input, OptionList, Static

from ida_tui import listing, plan
from ida_tui.config import Config
from ida_tui.errors import IdaError, UsageError
from ida_tui.printable import printable
from ida_tui.profiles import Kind
from ida_tui.readiness import Check, checks
from ida_tui.resolve import Resolved
from ida_tui.tui import words
from ida_tui.tui.actions import Scope, bindings
from ida_tui.tui.choosing import Choice, as_typed, editable, table
from ida_tui.tui.screens.base import IdaScreen
from ida_tui.tui.widgets.choices import Choices, Item
from ida_tui.tui.widgets.profile_table import ProfileTable

PROPOSED = "quickstart"
"""The experiment that is chosen at first: it runs everywhere."""
MARKS = {"ready": ("✓", "$text-success"), "note": ("!", "$text-warning"), "missing": ("✗", "bold $text-error")}
KNOWN = ("steps", "tokens", "judge calls", "evaluation", "memory limit")
"""Rows of the plan that are shown; the rest stands in the profile."""


class LaunchScreen(IdaScreen):
    """Three lists on the left; on the right the profile they make, and whether it can start."""

    SCOPE: ClassVar[Scope] = "launch"
    TITLE = "Launch"
    BINDINGS: ClassVar[list[BindingType]] = bindings(SCOPE)

    def __init__(self) -> None:
        super().__init__()
        names = [entry.name for entry in listing.entries("experiments")]
        first = PROPOSED if PROPOSED in names else names[0] if names else PROPOSED
        self._choice = Choice(first)
        self._resolved: Resolved | None = None
        self._problem: UsageError | None = None
        self._checks: list[Check] = []
        self._past = "not known yet"
        self._letters = ""
        self._filtering: Widget | None = None

    def compose_body(self) -> ComposeResult:
        """Lists and description on the left, profile and readiness on the right."""
        with Horizontal(id="launch"):
            with Vertical(id="lists"):
                yield Choices("Models", _items("models", "…"), "", id="models")
                experiments = _items("experiments")
                yield Choices("Experiments", experiments, self._choice.experiment, id="experiments")
                yield Choices("Judges", _items("judges", "…"), "", id="judges")
                yield Static(id="about", classes="pane", markup=False)
            with Vertical(id="plan"):
                yield ProfileTable(lambda key, text: self._choice.problem(key, text))
                with VerticalScroll(id="ready", classes="pane", can_focus=True):
                    yield Static(id="ready-text", markup=False)
        yield Input(id="filter", placeholder="letters to look for", select_on_focus=False)

    def on_mount(self) -> None:
        self.query_one("#filter").display = False
        self.query_one("#ready").border_title = "Ready?"
        self.query_one("#experiments").focus()
        self._resolve()
        self._look_for_past_runs()

    def on_screen_resume(self) -> None:
        self._look_for_past_runs()

    def fit(self) -> None:
        """The table is drawn to measure."""
        self.call_after_refresh(self._show)

    # -- what is chosen -----------------------------------------------------------------------

    @on(Choices.Chosen)
    def _chosen(self, event: Choices.Chosen) -> None:
        name = event.choices.chosen.name
        match event.choices.id:
            case "models":
                self._choice = Choice(
                    self._choice.experiment, name, self._choice.judge, self._choice.changes
                )
            case "experiments":
                self._choice = Choice(
                    name, self._choice.model, self._choice.judge, self._choice.changes
                )
            case _:
                self._choice = Choice(
                    self._choice.experiment, self._choice.model, name, self._choice.changes
                )
        self._resolve()
        self._look_for_past_runs()

    def _resolve(self) -> None:
        """Work out what the choice means, and whether it can start."""
        try:
            self._resolved = self._choice.resolved()
            self._problem = None
            self._checks = checks(self._resolved.config, folder=Path.cwd())
        except UsageError as error:
            self._problem = error
            self._checks = [
                Check(
                    "profile", "missing", f"{error.where}: {error.title}".lstrip(": "), error.hint
                )
            ]
        self._show()

    def _show(self) -> None:
        if not self.query("#ready-text"):
            return  # still being made
        resolved = self._resolved
        if resolved is not None:
            own = Choice(self._choice.experiment)
            for kind, key in (("models", "model"), ("judges", "judge")):
                items = _items(kind, _own_name(own, key))  # type: ignore[arg-type]
                self.query_one(f"#{kind}", Choices).set_items(items)
            changed = len(self._choice.changes)
            title = f"Profile {self._choice.experiment}"
            title += f" · {changed} changed" if changed else ""
            title += f" · “{self._letters}”" if self._letters else ""
            rows = table(resolved, self._choice.changes, self._letters)
            self.query_one(ProfileTable).show(rows, title)
        self._show_about()
        self.query_one("#ready-text", Static).update(self._ready_text())
        ready = all(check.status != "missing" for check in self._checks)
        self.query_one("#ready").border_subtitle = "enter starts" if ready else "not ready"

    def _show_about(self) -> None:
        focused = self.focused if isinstance(self.focused, Choices) else None
        item = (focused or self.query_one("#experiments", Choices)).chosen
        about = self.query_one("#about", Static)
        about.border_title = Content(printable(item.label))
        about.update(Content(printable(item.about)))

    def on_descendant_focus(self) -> None:
        self._show_about()

    def _ready_text(self) -> Content:
        lines = []
        for check in self._checks:
            mark, style = MARKS[check.status]
            text = [f" {check.name:<8} {check.text}"]
            if check.status != "ready" and check.fix:
                text.append(f"           {check.fix.splitlines()[0]}")
            lines.append(
                Content.assemble((mark, style), *(printable(text[0])))
                if len(text) == 1
                else Content.assemble(
                    (mark, style), printable(text[0]), "\n", (printable(text[1]), "dim")
                )
            )
        lines.append(Content(""))
        if self._resolved is not None and self._problem is None:
            lines += self._known(self._resolved.config)
        return Content("\n").join(lines)

    def _known(self, config: Config) -> list[Content]:
        rows = [(label, text) for label, text in plan.rows(config) if label in KNOWN]
        rows += [("memory need", "not estimated before a run yet"), ("time", self._past)]
        out = []
        for label, text in rows:
            first, *rest = text.splitlines()
            out.append(Content.assemble((f"  {label:<13}", "dim"), printable(first)))
            out += [Content(f"{'':<15}{printable(line)}") for line in rest]
        return out

    @work(exclusive=True, group="past")
    async def _look_for_past_runs(self) -> None:
        """The time that the same experiment took the last time; read off the screen's thread."""
        from ida_tui.runs.summaries import summaries

        found = await asyncio.to_thread(summaries, self.app.output_dir)
        config = self._resolved.config if self._resolved else None
        same = [
            run
            for run in found
            if config is not None
            and run.status == "done"
            and run.seconds is not None
            and (run.experiment, run.model) == (config.name, config.model.name or config.model.path)
        ]
        if same and same[0].seconds is not None:
            took = words.duration(same[0].seconds)
            self._past = f"the last such run here took {took} for {same[0].steps_done} steps"
        else:
            self._past = "not known: no such run here yet"
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
        self._resolve()
        missing = [check for check in self._checks if check.status == "missing"]
        if missing:
            said = "\n".join(f"{c.name}: {c.text}\n  {c.fix}".rstrip() for c in missing)
            self.app.show_error(IdaError("this run cannot start yet", said))
            return
        from ida_tui.judge.keys import load_key

        try:
            config = self._choice.resolved(verify=True).config
            key = load_key(config.judge, dotenv_dir=Path.cwd())
        except IdaError as error:
            self.app.show_error(error)
            return
        self.app.start_run(config, key)

    def action_edit(self) -> None:
        """Edit the value under the cursor."""
        profile = self.query_one(ProfileTable)
        row = profile.row
        if row is None or self._resolved is None or row.heading:
            self.notify("Choose a value first: tab, then the arrows.")
        elif not editable(row.key):
            self.notify(f"Prompts are edited in their file: {row.origin}")
        else:
            profile.values.focus()
            profile.edit(self._choice.changes.get(row.key) or as_typed(self._resolved, row.key))

    @on(ProfileTable.Edited)
    def _edited(self, event: ProfileTable.Edited) -> None:
        self._choice = self._choice.changed(event.key, event.text)
        self._resolve()

    def action_undo(self) -> None:
        """Take back the change to the value under the cursor."""
        row = self.query_one(ProfileTable).row
        if row is None or row.key not in self._choice.changes:
            self.notify("This value was not changed.")
            return
        self._choice = self._choice.unchanged(row.key)
        self._resolve()

    def action_undo_all(self) -> None:
        """Take back every change."""
        if not self._choice.changes:
            self.notify("Nothing was changed.")
            return
        for key in self._choice.changes:
            self._choice = self._choice.unchanged(key)
        self._resolve()

    def action_recheck(self) -> None:
        """Look again at device, model, key and disk."""
        self._resolve()
        self.notify("Checked again.")

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


def _items(kind: Kind, own: str = "") -> list[Item]:
    """The profiles of a kind; `own` is what the experiment itself names, where it names one."""
    items = [
        Item(e.name, e.name, e.error or e.description or "(no description)", bool(e.error))
        for e in listing.entries(kind)
    ]
    if own:
        about = next((i.about for i in items if i.name == own), "")
        items.insert(0, Item("", f"{own} (its own)", f"What the experiment itself names. {about}"))
    return items


def _own_name(choice: Choice, key: str) -> str:
    try:
        config = choice.resolved().config
    except UsageError:
        return "?"
    return (config.model.name or config.model.path) if key == "model" else config.judge.name
