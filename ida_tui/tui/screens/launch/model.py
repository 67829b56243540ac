"""Model of the launch screen: profiles, the selection, its resolved configuration, and readiness checks.

Importing this module takes a quarter of a second (pydantic and the schemas of all profiles), so the screen
imports it in a thread after its first paint.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ida_tui.config import listing
from ida_tui.config.profiles import Kind
from ida_tui.config.resolve import Resolved
from ida_tui.config.schema import Config
from ida_tui.errors import UsageError
from ida_tui.events.state import RunState
from ida_tui.judge.api_key import load_key
from ida_tui.planning import preview as plan
from ida_tui.planning.readiness import Check, checks
from ida_tui.runs.catalog.index import listed
from ida_tui.tui.screens.launch.profile_list import Item
from ida_tui.tui.screens.launch.selection import Choice, Row, as_typed, table
from ida_tui.tui.widgets import format as words

KNOWN = ("steps", "tokens", "judge calls", "budget", "evaluation", "memory limit")
"""Rows of the preview that the launch screen shows; the profile table shows the other values."""


class Desk:
    """The current selection and everything derived from it.

    Args:
        experiment: the experiment selected at first.
        folder: working directory; its `.env` may hold an API key.
    """

    def __init__(self, experiment: str, folder: Path) -> None:
        self.choice = Choice(experiment)
        self.resolved: Resolved | None = None
        """The resolved selection, or the last valid one while the selection is invalid."""
        self.problem: UsageError | None = None
        self.checks: list[Check] = []
        self.past = "unknown"
        """How long the last run of this experiment and model took."""
        self._earlier: RunState | None = None
        """State of that run; its measured memory is shown beside the plan."""
        self._folder = folder
        self.look()

    def choose(self, kind: Kind, name: str) -> None:
        """Select another profile."""
        match kind:
            case "models":
                self.choice = replace(self.choice, model=name)
            case "judges":
                self.choice = replace(self.choice, judge=name)
            case _:
                self.choice = replace(self.choice, experiment=name)
        self.look()

    def change(self, key: str, text: str) -> None:
        """Edit a value."""
        self.choice = self.choice.changed(key, text)
        self.look()

    def undo(self, *keys: str) -> None:
        """Undo the edits of these keys."""
        for key in keys:
            self.choice = self.choice.unchanged(key)
        self.look()

    def look(self) -> None:
        """Resolve the selection and run the readiness checks again."""
        try:
            self.resolved = self.choice.resolved()
            self.problem = None
            self.checks = checks(self.resolved.config, folder=self._folder)
        except UsageError as error:
            self.problem = error
            text = f"{error.where}: {error.title}".lstrip(": ")
            self.checks = [Check("profile", "missing", text, error.hint)]

    @property
    def missing(self) -> list[Check]:
        """The failed checks that prevent the run from starting."""
        return [check for check in self.checks if check.status == "missing"]

    def start(self) -> tuple[Config, str | None]:
        """The configuration to run and the judge's API key.

        Raises:
            IdaError: the configuration is invalid or the key is missing.
        """
        config = self.choice.resolved(verify=True).config
        return config, load_key(config.judge, dotenv_dir=self._folder)

    def problem_of(self, key: str, text: str) -> UsageError | None:
        """The error that this value would cause; None if it is valid."""
        return self.choice.problem(key, text)

    def rows(self, letters: str) -> list[Row]:
        """Rows of the profile table; only keys that contain `letters`."""
        return table(self.resolved, self.choice.changes, letters) if self.resolved else []

    def typed(self, key: str) -> str:
        """The edited text of a key, or its current value as it would be typed."""
        changed = self.choice.changes.get(key)
        return changed or (as_typed(self.resolved, key) if self.resolved else "")

    def items(self, kind: Kind) -> list[Item]:
        """The profiles of a kind. For models and judges, the experiment's default comes first."""
        items = [
            Item(e.name, e.name, e.error or e.description or "(no description)", bool(e.error))
            for e in listing.entries(kind)
        ]
        if kind in ("models", "judges"):
            own = self._own(kind)
            about = next((item.about for item in items if item.name == own), "")
            first = Item("", f"{own} (profile default)", f"The experiment's default. {about}")
            items.insert(0, first)
        return items

    def _own(self, kind: Kind) -> str:
        try:
            config = Choice(self.choice.experiment).resolved().config
        except UsageError:
            return "?"
        return (config.model.name or config.model.path) if kind == "models" else config.judge.name

    def known(self) -> list[tuple[str, str]]:
        """Label and text of each preview row; empty while the selection is invalid."""
        if self.resolved is None or self.problem is not None:
            return []
        planned = plan.rows(self.resolved.config, self._earlier)
        rows = [row for row in planned if row[0] in KNOWN]
        need, *table = next(text for label, text in planned if label == "memory").splitlines()
        breakdown = [("breakdown", "\n".join(table))] if table else []
        return [*rows, ("memory need", need), ("time", self.past), *breakdown]

    def look_for_past_runs(self, output_dir: Path) -> None:
        """Find the duration and memory of the last run of this experiment and model; reads the disk."""
        config = self.resolved.config if self.resolved else None
        self.past = "unknown (no previous run)"
        self._earlier = plan.newest_run(config) if config else None
        if config is None:
            return
        wanted = (config.name, config.model.name or config.model.path)
        for run in listed(output_dir):
            same = run.status == "done" and (run.experiment, run.model) == wanted
            if same and run.seconds is not None:
                duration = words.duration(run.seconds)
                self.past = f"previous run: {duration} for {run.steps_done} steps"
                return
