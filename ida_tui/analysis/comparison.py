"""Runs held against each other: what differs in their profiles, and what became of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Config
from ida_tui.errors import UsageError
from ida_tui.events.state import RunState
from ida_tui.events.types import EventError
from ida_tui.judge.api_key import host_of
from ida_tui.runs.catalog.read_summary import summary
from ida_tui.runs.catalog.summary import RunSummary
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.replay import Replay
from ida_tui.runs.store import evaluations
from ida_tui.runs.store import spot_checks as spotchecks
from ida_tui.runs.store.evaluations import Evaluation
from ida_tui.util.paths import shown_path

MOST = 6
"""Runs that are compared at once."""
LETTERS = "ABCDEF"
"""What they are called in plots and tables."""
CURVES = ("r_ida", "align", "risk", "detail")
ABSENT = "–"
"""Stands for a key that a run's profile does not have."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One of the runs."""

    directory: RunDirectory
    summary: RunSummary
    state: RunState
    config: Config | None
    """The resolved profile; None where it cannot be read, and `problem` says why."""
    problem: str
    evaluation: Evaluation | None
    """The newest one that was kept."""
    checks: tuple[int, int]
    """Completions whose scores a person agreed with, and those that were looked at."""

    @property
    def name(self) -> str:
        """Experiment and run id."""
        return f"{self.summary.experiment}/{self.summary.run_id}"

    @property
    def judge(self) -> str:
        """Who scored it, as exactly as it is known."""
        own = self.state.run.judge if self.state.run else ""
        if self.config is None or self.config.judge.kind != "openai":
            return own or "not known"
        judge = self.config.judge
        # A paused run may have gone on with another judge than its profile's.
        return f"{own or judge.model} at {host_of(judge.base_url)}"

    @property
    def rubric(self) -> str:
        """What was scored: name, version and digest."""
        if self.config is None:
            return "not known"
        rubric = self.config.rubric
        return f"{rubric.name} v{rubric.version} [{rubric.digest()}]"

    def curve(self, name: str) -> Sequence[float | None]:
        """One figure of every step: r_ida, align, risk or detail."""
        return self.state.steps.figures(name)


@dataclass(frozen=True, slots=True)
class Difference:
    """A value that is not the same in all of the profiles."""

    key: str
    """Dotted, such as ``training.learning_rate``."""
    values: tuple[str, ...]
    """One a run, as a person writes it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two or more runs."""

    runs: tuple[Compared, ...]
    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]
    """Why some of it does not compare, in sentences."""

    @property
    def steps(self) -> int:
        """Most steps that one of them has finished."""
        return max(len(run.state.steps) for run in self.runs)


def compare(directories: Sequence[RunDirectory]) -> Comparison:
    """Read runs and hold them against each other.

    Raises:
        UsageError: there are fewer than two or more than `MOST`, one is named twice, or cannot be read.
    """
    if not 2 <= len(directories) <= MOST:
        raise UsageError(
            f"{len(directories)} run{'s' * (len(directories) != 1)} cannot be compared",
            f"name 2 to {MOST} of them; ida-tui runs lists them",
        )
    paths = [directory.path.resolve() for directory in directories]
    for path in paths:
        if paths.count(path) > 1:
            raise UsageError(f"{shown_path(path)} is named twice", "name another run beside it")
    return held_together([look(directory) for directory in directories])


def look(directory: RunDirectory) -> Compared:
    """What is known of one run.

    Raises:
        UsageError: its events cannot be read.
    """
    try:
        state = Replay.open(directory.events).end
    except (OSError, EventError) as error:
        raise UsageError(f"{shown_path(directory.path)} cannot be read: {error}") from None
    config, problem = None, ""
    try:
        config = resolve(str(directory.config), verify=False).config
    except UsageError as error:
        problem = error.title
    return Compared(
        directory,
        summary(directory),
        state,
        config,
        problem,
        evaluations.newest(directory),
        spotchecks.agreement(directory),
    )


def held_together(runs: Sequence[Compared]) -> Comparison:
    """The comparison of runs that were read."""
    return Comparison(tuple(runs), tuple(_differences(runs)), tuple(_warnings(runs)))


# --- profiles -----------------------------------------------------------------------------------


def flattened(config: Config) -> dict[str, str]:
    """Dotted key → value, as a person writes it. A list is one value; a long one is counted."""
    found: dict[str, str] = {}
    for section, value in config.model_dump(mode="json").items():
        for key, leaf in _leaves(value, section):
            if not key.endswith("description"):
                found[key] = leaf
    return found


def _leaves(value: object, prefix: str) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [leaf for key, child in value.items() for leaf in _leaves(child, f"{prefix}.{key}")]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [(prefix, _many(value))]
    return [(prefix, _shown(value))]


def _many(items: list[object]) -> str:
    """Long lists, such as prompts: how many, and something that changes with any of them."""
    text = json.dumps(items, sort_keys=True, ensure_ascii=False)
    return f"{len(items)} [{hashlib.sha256(text.encode()).hexdigest()[:8]}]"


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value if value else '""'
    if isinstance(value, float):
        return repr(value)  # two values that differ are shown to
    return json.dumps(value, ensure_ascii=False)


def _differences(runs: Sequence[Compared]) -> list[Difference]:
    """Only what is not the same everywhere; a profile that cannot be read is left out of it."""
    profiles = [None if run.config is None else flattened(run.config) for run in runs]
    known = [profile for profile in profiles if profile is not None]
    keys = list(dict.fromkeys(key for profile in known for key in profile))
    return [
        Difference(key, tuple(p.get(key, ABSENT) if p is not None else "?" for p in profiles))
        for key in keys
        if len({profile.get(key, ABSENT) for profile in known}) > 1
    ]


# --- what does not compare ----------------------------------------------------------------------


def _warnings(runs: Sequence[Compared]) -> list[str]:
    said = []
    for what, values in (
        ("judges", [run.judge for run in runs]),
        ("rubrics", [run.rubric for run in runs]),
    ):
        if len(set(values)) > 1:
            each = ", ".join(_each(values))
            said.append(f"Their {what} differ ({each}): their rewards do not compare.")
    known = [run.config.prompts.train() for run in runs if run.config is not None]
    if any(prompts != known[0] for prompts in known):
        said.append("They were trained on different prompts: rewards compare only roughly.")
    made = [(run.evaluation.prompts, run.evaluation.judge) for run in runs if run.evaluation]
    if len(set(made)) > 1:
        said.append("Their evaluations are of different prompts or judges, and do not compare.")
    said += [f"{_letter(n)}: {run.problem}" for n, run in enumerate(runs) if run.problem]
    return said


def _each(values: Sequence[str]) -> list[str]:
    return [f"{_letter(number)} {value}" for number, value in enumerate(values)]


def _letter(number: int) -> str:
    return LETTERS[number % len(LETTERS)]
