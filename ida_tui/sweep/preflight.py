"""Preflight checks of a sweep: settings and planned memory of every combination, before any run starts.

The combinations of a search are not known then. The bounds of its ranges are checked, and each combination
when it is suggested.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from ida_tui.config.resolve import resolve, to_yaml
from ida_tui.config.schema import Config
from ida_tui.config.trust.consent import RESUME_USES, ConsentRequired, remember_run
from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.judge.api_key import load_api_key
from ida_tui.planning import memory
from ida_tui.planning.preview import choose_planned_device, planned_memory_limit
from ida_tui.planning.readiness import check_readiness
from ida_tui.sweep import directory
from ida_tui.sweep.directory import Combination, Sweep
from ida_tui.sweep.grid import SweepGrid, combination_label, parse_grid
from ida_tui.sweep.processes import Host
from ida_tui.util.paths import expand_home
from ida_tui.util.safe_files import write_text


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """A checked sweep, ready to start."""

    profile: str
    grid: SweepGrid
    configs: tuple[Config, ...]
    combinations: tuple[Combination, ...]
    """Every combination of a grid; of a search, combinations of bounds."""
    trials: int | None
    """Number of runs of a search; None for a grid."""

    @property
    def uses_gpus(self) -> bool:
        """Whether the runs use NVIDIA GPUs if there are some."""
        return any(config.device in ("auto", "cuda") for config in self.configs)


def plan_sweep(
    profile: str,
    arguments: Sequence[str],
    *,
    budget: float | None = None,
    trials: int | None = None,
) -> SweepPlan:
    """Parse the arguments of a sweep and check every combination as `--check` does.

    Args:
        profile: an experiment.
        arguments: `key=a,b,c`, `key=low..high` or `key=value` arguments.
        budget: US dollars for all runs together.
        trials: number of combinations of a search; None for a grid.

    Raises:
        UsageError: a combination is wrong; the message names it.
        IdaError: a combination lacks its API key (exit code 3) or does not fit in memory (exit code 4).
    """
    grid = parse_grid(arguments, trials=trials)
    configs, combinations = [], []
    # With a budget, a judge without a price is an error.
    budget_override = [] if budget is None else [f"budget={budget!r}"]
    for values in grid.extremes() if grid.ranges else grid.combinations:
        overrides = [f"{key}={value}" for key, value in values.items()]
        try:
            config = resolve(profile, [*grid.fixed, *overrides]).config
            if budget_override:
                resolve(profile, [*grid.fixed, *overrides, *budget_override])
            _check_readiness(config)
        except IdaError as error:
            error.title = f"{combination_label(values)}: {error.title}"
            raise
        configs.append(config)
        combinations.append(_planned_combination(config, values))
    _reject_duplicates(configs, combinations)
    return SweepPlan(profile, grid, tuple(configs), tuple(combinations), trials)


def create_sweep(
    plan: SweepPlan, *, jobs: int | None, budget: float | None, started_at: datetime
) -> Sweep:
    """Create the directory of a sweep, with a profile for each combination.

    Raises:
        UsageError: the directory cannot be written.
    """
    first = plan.configs[0]
    path = directory.create_directory(expand_home(first.output_dir), started_at)
    sweep = Sweep(
        path=path,
        profile=plan.profile,
        experiment=first.name,
        keys=plan.grid.keys,
        fixed=plan.grid.fixed,
        combinations=() if plan.grid.ranges else plan.combinations,
        jobs=jobs,
        budget=budget,
        ranges=plan.grid.ranges,
        trials=plan.trials,
        uses_gpus=plan.uses_gpus,
    )
    try:
        if plan.grid.ranges:
            write_text(sweep.base_config_file, to_yaml(first))
        for number, config in enumerate(plan.configs):
            if not plan.grid.ranges:
                write_text(sweep.config_file(number), to_yaml(config))
            remember_run(config, None)
        directory.save(sweep)
    except OSError as error:
        raise UsageError(f"could not write to {path}: {error.strerror or error}") from None
    return sweep


def add_trial(sweep: Sweep, number: int, values: Mapping[str, str]) -> Sweep:
    """Add a suggested combination to a search, with its profile.

    A combination that cannot be trained is added too, with the reason in place of its run.

    Args:
        sweep: a search with `number` combinations.
        number: number of the combination.
        values: dotted key → value.

    Returns:
        the search with the combination, as saved.

    Raises:
        UsageError: the directory cannot be written.
    """
    overrides = [f"{key}={value}" for key, value in values.items()]
    problem = None
    try:
        config = resolve(str(sweep.base_config_file), overrides).config
        combination = _planned_combination(config, values)
    except IdaError as error:
        combination, problem = Combination(values, None, 0.0), error
    try:
        if problem is None:
            write_text(sweep.config_file(number), to_yaml(config))
            remember_run(config, None)
        else:
            text = json.dumps({"code": problem.code, "said": problem.title})
            write_text(sweep.failure_file(number), text + "\n")
    except OSError as error:
        raise UsageError(f"could not write to {sweep.path}: {error.strerror or error}") from None
    changed = replace(sweep, combinations=(*sweep.combinations, combination))
    directory.save(changed)
    return changed


def require_consent_to(sweep: Sweep, overrides: Sequence[str]) -> None:
    """Check that the person agreed to what the profiles of a sweep ask for; its processes cannot ask.

    Args:
        sweep: a sweep that may have been made by somebody else.
        overrides: `key=value` strings that agree.

    Raises:
        ConsentRequired: an agreement is missing.
    """
    # A search also has the profile that its values are set in.
    for number in range(0 if sweep.trials is None else -1, len(sweep.combinations)):
        file = str(sweep.config_file(number))
        try:
            resolved = resolve(file, overrides, verify=False, uses=RESUME_USES)
        except ConsentRequired:
            raise
        except UsageError:
            continue  # the process of this combination reports it
        if overrides:
            remember_run(resolved.config, None, RESUME_USES)


def _check_readiness(config: Config) -> None:
    """Check that everything a run needs is available.

    Raises:
        IdaError: something is missing.
    """
    load_api_key(config.judge, dotenv_dir=Path.cwd())
    for check in check_readiness(config, folder=Path.cwd()):
        if check.severity == "error":
            raise UsageError(f"{check.about}: {check.text}", check.fix)


def _planned_combination(config: Config, values: Mapping[str, str]) -> Combination:
    """The combination with its planned memory and memory limit.

    Raises:
        IdaError: it does not fit in memory (exit code 4).
    """
    device, _ = choose_planned_device(config)
    limit = planned_memory_limit(config)
    config = memory.resolve_auto(config, device, limit)
    plan = memory.plan(config, device)
    if plan is not None and plan.peak_bytes > limit and config.over_limit == "refuse":
        raise IdaError(
            f"{combination_label(values)}: planned memory is {plan.peak_bytes / 1e9:.1f} GB, but the limit is"
            f" {limit / 1e9:.1f} GB",
            f"{memory.reduction_hint(config, device, limit)}\nNo run was started.",
            code=ExitCode.OUT_OF_MEMORY,
        )
    return Combination(values, None if plan is None else plan.peak_bytes, limit)


def _reject_duplicates(configs: Sequence[Config], combinations: Sequence[Combination]) -> None:
    """Reject combinations that differ only in how a value is typed; they would be counted as two settings.

    Raises:
        UsageError: two combinations are the same run.
    """
    seen: dict[str, Combination] = {}
    for config, combination in zip(configs, combinations, strict=True):
        text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
        if text in seen:
            raise UsageError(
                f"{combination_label(combination.values)} is the same run as"
                f" {combination_label(seen[text].values)}",
                "give each value once",
                where="command line",
            )
        seen[text] = combination


def plan_lines(plan: SweepPlan, host: Host, *, jobs: int | None, budget: float | None) -> list[str]:
    """The lines printed before a sweep starts: combinations, planned memory, where it is trained and budget.

    Args:
        plan: the plan.
        host: where the runs are trained.
        jobs: maximum number of parallel runs that the person gave.
        budget: US dollars for all runs together.
    """
    slots = host.slots(jobs, plan.uses_gpus)
    place = host.summary(plan.uses_gpus)
    known = [
        combination.planned for combination in plan.combinations if combination.planned is not None
    ]
    limit = min(combination.limit for combination in plan.combinations)
    memory_line = "memory: unknown until the model is downloaded"
    if known:
        memory_line = f"memory: at most {max(known) / 1e9:.1f} of {limit / 1e9:.1f} GB per run"
        if slots > 1:
            memory_line += f", up to {slots} runs in parallel if they fit"
    name = plan.configs[0].name
    head = f"{plan.grid.summary()} = {len(plan.combinations)} runs of {name}, all valid"
    if plan.trials is not None:
        head = f"{plan.trials} trials of {name}: {plan.grid.summary()}; the bounds are valid"
    return [
        f"✓ {head}",
        f"  {memory_line}",
        *([f"  {place}"] if place else []),
        *([] if budget is None else [f"  judge budget for all runs: ${budget:g}"]),
    ]
