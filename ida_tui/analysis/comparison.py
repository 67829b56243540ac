"""Comparison of runs: differences between their profiles, and their results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from ida_tui.config.schema import Config
from ida_tui.config.scoring.axes import Axis
from ida_tui.config.scoring.reward_files import functions_label
from ida_tui.errors import UsageError
from ida_tui.events.scoring import PART_NAMES, PROMPT_PARTS, change_sentences, scored_by
from ida_tui.judge.api_key import host_of
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.run import Run
from ida_tui.runs.store import spot_checks
from ida_tui.util.paths import display_path

MAX_RUNS = 6
"""Maximum number of runs in a comparison."""
RUN_LABELS = "ABCDEF"
"""Labels of the runs in plots and tables."""
MISSING_KEY = "–"
"""Placeholder for a key that is missing from a run's profile."""
EMPTY_VALUES = frozenset((MISSING_KEY, "null", "false", '""', "[]", "{}"))
"""Values of an axis of one run that say nothing to a run without that axis."""


@dataclass(frozen=True, slots=True)
class ConfigDifference:
    """A config value that differs between runs."""

    key: str
    """Dotted key, such as `training.learning_rate`."""
    values: tuple[str, ...]
    """One value per run, as text."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of two or more runs."""

    runs: tuple[Run, ...]
    spot_checks: tuple[tuple[int, int], ...]
    """For each run, the spot checks that agree with the judge, and all spot checks."""
    differences: tuple[ConfigDifference, ...]
    warnings: tuple[str, ...]
    """Reasons why some results are not comparable, as sentences."""

    @property
    def steps(self) -> int:
        """Maximum number of finished steps among the runs."""
        return max(len(run.state.steps) for run in self.runs)


def compare_runs(directories: Sequence[RunDirectory]) -> Comparison:
    """Load runs and compare them.

    Raises:
        UsageError: there are too few or too many runs, or a run is given twice or unreadable.
    """
    if not 2 <= len(directories) <= MAX_RUNS:
        raise UsageError(
            f"compare needs 2 to {MAX_RUNS} runs, not {len(directories)}",
            "list runs with: ida-tui runs",
        )
    paths = [directory.path.resolve() for directory in directories]
    for path in paths:
        if paths.count(path) > 1:
            raise UsageError(f"{display_path(path)} is given twice", "choose different runs")
    runs = [Run.load(directory) for directory in directories]
    return Comparison(
        runs=tuple(runs),
        spot_checks=tuple(
            spot_checks.count_agreement(directory, run.state.scored_since_step)
            for directory, run in zip(directories, runs, strict=True)
        ),
        differences=tuple(_find_differences(runs)),
        warnings=tuple(_find_warnings(runs)),
    )


def run_title(run: Run) -> str:
    """Experiment and run id, `experiment/run-id`, also if the run directory was moved."""
    return f"{run.experiment}/{run.directory.name}"


def has_judge(run: Run) -> bool:
    """Whether a judge scored the run's completions; true for a run that did not start."""
    return run.state.run is None or bool(run.state.run.judge)


def judge_label(run: Run) -> str:
    """Name of the judge, with its host if known; the reward functions if nothing was judged."""
    name = run.state.run.judge if run.state.run else ""
    if run.state.run is not None and not name:
        if not run.config_error and run.config.rubric.computed_axes:
            return functions_label(run.config.rubric)
        return scored_by(name, run.state.axes) or "unknown"
    if run.config_error or run.config.judge.kind != "openai":
        return name or "unknown"
    judge = run.config.judge
    # A paused run may have resumed with a different judge than the one in its profile.
    return f"{name or judge.model} at {host_of(judge.base_url)}"


def rubric_label(run: Run) -> str:
    """Name, version and digest of the rubric."""
    if run.config_error:
        return "unknown"
    rubric = run.config.rubric
    return f"{rubric.name} v{rubric.version} [{rubric.digest()}]"


# --- profiles -----------------------------------------------------------------------------------


def flatten_config(config: Config) -> dict[str, str]:
    """Dotted key → value as text. A list is one value; a list of mappings is shown as count and hash."""
    values_by_key: dict[str, str] = {}
    for section, value in config.model_dump(mode="json").items():
        for key, leaf in _flatten_value(value, section):
            if not key.endswith("description"):
                values_by_key[key] = leaf
    return values_by_key


def _flatten_value(value: object, prefix: str) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [
            leaf
            for key, child in value.items()
            for leaf in _flatten_value(child, f"{prefix}.{key}")
        ]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [(prefix, _list_digest(value))]
    return [(prefix, _format_value(value))]


def _list_digest(items: list[object]) -> str:
    """A list of mappings, such as prompts, as its length and a hash of its content."""
    text = json.dumps(items, sort_keys=True, ensure_ascii=False)
    return f"{len(items)} [{hashlib.sha256(text.encode()).hexdigest()[:8]}]"


def _format_value(value: object) -> str:
    if isinstance(value, str):
        return value if value else '""'
    if isinstance(value, float):
        return repr(value)  # full precision, so that different values look different
    return json.dumps(value, ensure_ascii=False)


def _find_differences(runs: Sequence[Run]) -> list[ConfigDifference]:
    """The config values that differ between the runs; unreadable profiles are ignored."""
    profiles = [None if run.config_error else flatten_config(run.config) for run in runs]
    known = [profile for profile in profiles if profile is not None]
    differences = []
    for key in dict.fromkeys(key for profile in known for key in profile):
        values = {profile.get(key, MISSING_KEY) for profile in known}
        if len(values) == 1 or (MISSING_KEY in values and values <= EMPTY_VALUES):
            continue
        texts = tuple("?" if p is None else p.get(key, MISSING_KEY) for p in profiles)
        differences.append(ConfigDifference(key, texts))
    return differences


# --- warnings -----------------------------------------------------------------------------------


def _find_warnings(runs: Sequence[Run]) -> list[str]:
    warnings = []
    for noun, values in (
        ("judges", [judge_label(run) for run in runs]),
        ("rubrics", [rubric_label(run) for run in runs]),
    ):
        if len(set(values)) > 1:
            labeled = ", ".join(_label_values(values))
            warnings.append(f"The {noun} differ ({labeled}), so rewards are not comparable.")
    if not warnings and (differing := _differing_scoring(runs)):
        warnings.append(f"{differing} differ, so rewards are not comparable.")
    warnings += [
        f"{_run_label(n)}: {sentence} Its rewards and curves start after that step."
        for n, run in enumerate(runs)
        for sentence in change_sentences(run.state.scoring)[-1:]
    ]
    known = [run.config.prompts.trained_on() for run in runs if not run.config_error]
    if any(prompts != known[0] for prompts in known):
        warnings.append("The training prompts differ, so rewards are only roughly comparable.")
    evaluation_setups = [
        (run.evaluation.prompts, run.evaluation.judge) for run in runs if run.evaluation
    ]
    if len(set(evaluation_setups)) > 1:
        warnings.append(
            "The evaluations used different prompts or judges, so they are not comparable."
        )
    warnings += [
        f"{_run_label(n)}: {run.config_error}" for n, run in enumerate(runs) if run.config_error
    ]
    return warnings


def _differing_scoring(runs: Sequence[Run]) -> str:
    """What else the scores depend on and differs between runs with the same judge and rubric."""
    known = [run.state.scoring[-1] for run in runs if run.state.scoring]
    known = [period for period in known if period.parts]
    names = [
        words
        for name, words in PART_NAMES.items()
        if name not in PROMPT_PARTS and len({period.parts.get(name) for period in known}) > 1
    ]
    text = " and ".join(names)
    return text[:1].upper() + text[1:]


def compared_axes(comparison: Comparison) -> tuple[Axis, ...]:
    """The axes of all compared runs, in order, without repetition."""
    axes = {axis.name: axis for run in comparison.runs for axis in run.state.axes}
    return tuple(axes.values())


def reward_title(runs: Sequence[Run]) -> str:
    """Name of the reward of these runs: `R_IDA`, or `reward` if they have different ones."""
    names = {run.state.reward_name for run in runs}
    return names.pop() if len(names) == 1 else "reward"


def score_curve(run: Run, axis: str | None) -> list[float | None]:
    """A score of every step; None before the current scoring period, whose steps are not comparable.

    Args:
        run: the run.
        axis: name of an axis; None is the reward.
    """
    steps = run.state.steps
    values = list(steps.column("reward") if axis is None else steps.score_column(axis))
    start = run.state.scoring_start
    return [*[None] * start, *values[start:]]


def _label_values(values: Sequence[str]) -> list[str]:
    return [f"{_run_label(number)} {value}" for number, value in enumerate(values)]


def _run_label(number: int) -> str:
    return RUN_LABELS[number % len(RUN_LABELS)]
