"""Model of the launch screen: profiles, the selection, its resolved configuration, and readiness checks.

Importing this module takes a quarter of a second (pydantic and the schemas of all profiles), so the screen
imports it in a thread after its first paint.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ida_tui.config import listing
from ida_tui.config.profiles import ProfileKind
from ida_tui.config.resolve import ResolvedExperiment
from ida_tui.config.schema import Config, JudgeKey
from ida_tui.config.trust.consent import ALL_USES, Use
from ida_tui.errors import UsageError
from ida_tui.events.state import RunState
from ida_tui.judge.api_key import load_api_key
from ida_tui.planning import preview
from ida_tui.planning.readiness import check_readiness
from ida_tui.runs.catalog.index import list_runs
from ida_tui.tui.screens.launch.profile_list import ProfileItem
from ida_tui.tui.screens.launch.selection import (
    ProfileRow,
    ProfileSelection,
    editable_value,
    profile_rows,
)
from ida_tui.util.finding import Finding
from ida_tui.util.format import format_clock, format_count

PREVIEW_LABELS = (
    "steps", "tokens", "functions", "reward", "judge calls", "budget", "evaluation", "memory limit",
)  # fmt: skip
"""Rows of the preview that the launch screen shows; the profile table shows the other values."""


class PreviewRow(NamedTuple):
    """One row of the preview of the run."""

    label: str
    text: str
    """One or more lines."""


class LaunchModel:
    """The current selection and everything derived from it.

    Args:
        experiment: the experiment selected at first.
        directory: working directory; its `.env` may hold an API key.
    """

    def __init__(self, experiment: str, directory: Path) -> None:
        self.selection = ProfileSelection(experiment)
        self.resolved: ResolvedExperiment | None = None
        """The resolved selection, or the last valid one while the selection is invalid."""
        self.problem: UsageError | None = None
        self.checks: list[Finding] = []
        self.previous_duration = "unknown"
        """How long the last run of this experiment and model took."""
        self._previous_run: RunState | None = None
        """State of that run; its measured memory is shown next to the plan."""
        self._directory = directory
        self.refresh()

    def select(self, kind: ProfileKind, name: str) -> None:
        """Select another profile."""
        match kind:
            case "models":
                self.selection = replace(self.selection, model=name)
            case "judges":
                self.selection = replace(self.selection, judge=name)
            case _:
                self.selection = replace(self.selection, experiment=name)
        self.refresh()

    def edit(self, key: str, text: str) -> None:
        """Edit a value."""
        self.selection = self.selection.with_edit(key, text)
        self.refresh()

    def undo(self, *keys: str) -> None:
        """Undo the edits of these keys."""
        for key in keys:
            self.selection = self.selection.without_edit(key)
        self.refresh()

    def refresh(self) -> None:
        """Resolve the selection and run the readiness checks again."""
        try:
            self.resolved = self.selection.resolve_config()
            self.problem = None
            self.checks = check_readiness(self.resolved.config, folder=self._directory)
        except UsageError as error:
            self.problem = error
            text = f"{error.where}: {error.title}".lstrip(": ")
            self.checks = [Finding("error", "profile", text, error.hint)]

    @property
    def failed_checks(self) -> list[Finding]:
        """The failed checks that prevent the run from starting."""
        return [check for check in self.checks if check.severity == "error"]

    def resolve_for_start(self, uses: tuple[Use, ...] = ALL_USES) -> tuple[Config, JudgeKey]:
        """The configuration to run and the judge's API key.

        Args:
            uses: what it is used for.

        Raises:
            IdaError: the configuration is invalid or the key is missing.
            ConsentRequired: the person has not agreed to one of the uses.
        """
        config = self.selection.resolve_config(verify=True, uses=uses).config
        return config, load_api_key(config.judge, dotenv_dir=self._directory)

    def validate(self, key: str, text: str) -> UsageError | None:
        """The error that this value would cause; None if it is valid."""
        return self.selection.validate(key, text)

    def rows(self, filter_text: str) -> list[ProfileRow]:
        """Rows of the profile table; only keys that contain this text."""
        return (
            profile_rows(self.resolved, self.selection.edits, filter_text) if self.resolved else []
        )

    def editable_value(self, key: str) -> str:
        """The edited text of a key, or its current value as it would be typed."""
        changed = self.selection.edits.get(key)
        return changed or (editable_value(self.resolved, key) if self.resolved else "")

    def profile_items(self, kind: ProfileKind) -> list[ProfileItem]:
        """The profiles of a kind. For models and judges, the experiment's default comes first."""
        items = [
            ProfileItem(
                entry.name,
                entry.name,
                entry.error or entry.description or "(no description)",
                bool(entry.error),
            )
            for entry in listing.list_entries(kind)
        ]
        if kind in ("models", "judges"):
            default = self._default_name(kind)
            description = next((item.description for item in items if item.name == default), "")
            first = ProfileItem(
                "", f"{default} (profile default)", f"The experiment's default. {description}"
            )
            items.insert(0, first)
        return items

    def _default_name(self, kind: ProfileKind) -> str:
        try:
            config = ProfileSelection(self.selection.experiment).resolve_config().config
        except UsageError:
            return "?"
        return (config.model.name or config.model.path) if kind == "models" else config.judge.name

    def preview_rows(self) -> list[PreviewRow]:
        """The rows of the preview; empty while the selection is invalid."""
        if self.resolved is None or self.problem is not None:
            return []
        planned = preview.preview_rows(self.resolved.config, self._previous_run)
        rows = [PreviewRow(label, text) for label, text in planned if label in PREVIEW_LABELS]
        need, *table = next(text for label, text in planned if label == "memory").splitlines()
        rows += [PreviewRow("memory need", need), PreviewRow("time", self.previous_duration)]
        if table:
            rows.append(PreviewRow("breakdown", "\n".join(table)))
        return rows

    def find_previous_run(self, output_dir: Path) -> None:
        """Find the duration and memory of the last run of this experiment and model; reads the disk."""
        config = self.resolved.config if self.resolved else None
        self.previous_duration = "unknown (no previous run)"
        self._previous_run = preview.latest_run_state(config) if config else None
        if config is None:
            return
        wanted = (config.name, config.model.name or config.model.path)
        for run in list_runs(output_dir):
            same = run.status == "done" and (run.experiment, run.model) == wanted
            if same and run.seconds is not None:
                duration = format_clock(run.seconds)
                self.previous_duration = (
                    f"previous run: {duration} for {format_count(run.steps_done, 'step')}"
                )
                return
