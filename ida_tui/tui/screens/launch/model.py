"""What the launch screen thinks with: profiles, the choice, what it means, whether it can start.

Importing this takes a quarter of a second (pydantic and every profile's shape), so the screen does it after
its first paint, in a thread.
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
"""Rows of the plan that are shown; the rest stands in the profile."""


class Desk:
    """The choice that is being made, and everything that follows from it.

    Args:
        experiment: the one that is chosen at first.
        folder: the working directory, whose `.env` may hold a key.
    """

    def __init__(self, experiment: str, folder: Path) -> None:
        self.choice = Choice(experiment)
        self.resolved: Resolved | None = None
        """What the choice means; while something in it is wrong, what it meant before."""
        self.problem: UsageError | None = None
        self.checks: list[Check] = []
        self.past = "not known yet"
        """How long the last such run took."""
        self._earlier: RunState | None = None
        """That run, whose memory is shown beside what is planned."""
        self._folder = folder
        self.look()

    def choose(self, kind: Kind, name: str) -> None:
        """Choose another profile."""
        match kind:
            case "models":
                self.choice = replace(self.choice, model=name)
            case "judges":
                self.choice = replace(self.choice, judge=name)
            case _:
                self.choice = replace(self.choice, experiment=name)
        self.look()

    def change(self, key: str, text: str) -> None:
        """Change a value."""
        self.choice = self.choice.changed(key, text)
        self.look()

    def undo(self, *keys: str) -> None:
        """Take changes back."""
        for key in keys:
            self.choice = self.choice.unchanged(key)
        self.look()

    def look(self) -> None:
        """Work out what the choice means, and whether it can start."""
        try:
            self.resolved = self.choice.resolved()
            self.problem = None
            self.checks = checks(self.resolved.config, folder=self._folder)
        except UsageError as error:
            self.problem = error
            said = f"{error.where}: {error.title}".lstrip(": ")
            self.checks = [Check("profile", "missing", said, error.hint)]

    @property
    def missing(self) -> list[Check]:
        """What keeps the run from starting."""
        return [check for check in self.checks if check.status == "missing"]

    def start(self) -> tuple[Config, str | None]:
        """The experiment to run, and the judge's key.

        Raises:
            IdaError: it cannot run after all.
        """
        config = self.choice.resolved(verify=True).config
        return config, load_key(config.judge, dotenv_dir=self._folder)

    def problem_of(self, key: str, text: str) -> UsageError | None:
        """What would be wrong with this value of this key; None if nothing."""
        return self.choice.problem(key, text)

    def rows(self, letters: str) -> list[Row]:
        """The profile as a table."""
        return table(self.resolved, self.choice.changes, letters) if self.resolved else []

    def typed(self, key: str) -> str:
        """A value as it was typed, or as one would type it."""
        changed = self.choice.changes.get(key)
        return changed or (as_typed(self.resolved, key) if self.resolved else "")

    def items(self, kind: Kind) -> list[Item]:
        """The profiles of a kind; for models and judges, what the experiment itself names comes first."""
        items = [
            Item(e.name, e.name, e.error or e.description or "(no description)", bool(e.error))
            for e in listing.entries(kind)
        ]
        if kind in ("models", "judges"):
            own = self._own(kind)
            about = next((item.about for item in items if item.name == own), "")
            first = Item("", f"{own} (its own)", f"What the experiment itself names. {about}")
            items.insert(0, first)
        return items

    def _own(self, kind: Kind) -> str:
        try:
            config = Choice(self.choice.experiment).resolved().config
        except UsageError:
            return "?"
        return (config.model.name or config.model.path) if kind == "models" else config.judge.name

    def known(self) -> list[tuple[str, str]]:
        """What can be said of the run before it: nothing of it is guessed."""
        if self.resolved is None or self.problem is not None:
            return []
        planned = plan.rows(self.resolved.config, self._earlier)
        rows = [row for row in planned if row[0] in KNOWN]
        need, *table = next(text for label, text in planned if label == "memory").splitlines()
        shown = [("its parts", "\n".join(table))] if table else []
        return [*rows, ("memory need", need), ("time", self.past), *shown]

    def look_for_past_runs(self, output_dir: Path) -> None:
        """Find the time that the last such run took; reads the disk."""
        config = self.resolved.config if self.resolved else None
        self.past = "not known: no such run here yet"
        self._earlier = plan.newest_run(config) if config else None
        if config is None:
            return
        wanted = (config.name, config.model.name or config.model.path)
        for run in listed(output_dir):
            same = run.status == "done" and (run.experiment, run.model) == wanted
            if same and run.seconds is not None:
                took = words.duration(run.seconds)
                self.past = f"the last such run here took {took} for {run.steps_done} steps"
                return
