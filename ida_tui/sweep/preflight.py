"""Every combination resolved, checked and planned before any of them runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ida_tui.config.resolve import resolve, to_yaml
from ida_tui.config.schema import Config
from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.judge.api_key import load_key
from ida_tui.planning import memory
from ida_tui.planning.preview import memory_limit, planned_device
from ida_tui.planning.readiness import checks
from ida_tui.sweep import directory as folder
from ida_tui.sweep.directory import Combination, Sweep
from ida_tui.sweep.grid import Grid, grid, named
from ida_tui.util.paths import expanded


@dataclass(frozen=True, slots=True)
class Planned:
    """A sweep that may begin."""

    profile: str
    grid: Grid
    configs: tuple[Config, ...]
    combinations: tuple[Combination, ...]


def planned(profile: str, words: Sequence[str], *, budget: float | None = None) -> Planned:
    """What a command line means, with every combination checked as ``--check`` does it.

    Args:
        profile: an experiment.
        words: ``key=a,b,c`` or ``key=value`` each.
        budget: US dollars for all runs together.

    Raises:
        UsageError: a combination is wrong; the message names it.
        IdaError: one lacks its key (exit code 3) or does not fit into the memory (exit code 4).
    """
    meant = grid(words)
    configs, combinations = [], []
    # With a budget, a judge whose calls have no price is refused.
    capped = [] if budget is None else [f"budget={budget!r}"]
    for values in meant.combinations:
        own = [f"{key}={value}" for key, value in values.items()]
        try:
            config = resolve(profile, [*meant.fixed, *own]).config
            if capped:
                resolve(profile, [*meant.fixed, *own, *capped])
            _require(config)
        except IdaError as error:
            error.title = f"{named(values)}: {error.title}"
            raise
        configs.append(config)
        combinations.append(_measured(config, values))
    _refuse_twins(configs, combinations)
    return Planned(profile, meant, tuple(configs), tuple(combinations))


def begun(plan: Planned, *, jobs: int, budget: float | None, moment: datetime) -> Sweep:
    """Make the folder of a sweep, with a profile for each combination.

    Raises:
        UsageError: it cannot be written.
    """
    first = plan.configs[0]
    path = folder.create(expanded(first.output_dir), moment)
    sweep = Sweep(
        path=path,
        profile=plan.profile,
        experiment=first.name,
        keys=plan.grid.keys,
        fixed=plan.grid.fixed,
        combinations=plan.combinations,
        jobs=jobs,
        budget=budget,
    )
    try:
        for number, config in enumerate(plan.configs):
            sweep.config(number).write_text(to_yaml(config), encoding="utf-8")
        folder.keep(sweep)
    except OSError as error:
        raise UsageError(f"{path} cannot be written to: {error.strerror or error}") from None
    return sweep


def _require(config: Config) -> None:
    """What a run needs is here.

    Raises:
        IdaError: something is missing.
    """
    load_key(config.judge, dotenv_dir=Path.cwd())
    for one in checks(config, folder=Path.cwd()):
        if one.status == "missing":
            raise UsageError(f"{one.name}: {one.text}", one.fix)


def _measured(config: Config, values: Mapping[str, str]) -> Combination:
    """The combination with its memory.

    Raises:
        IdaError: it does not fit (exit code 4).
    """
    device, _ = planned_device(config)
    most = memory_limit(config)
    config = memory.chosen(config, device, most)
    plan = memory.plan(config, device)
    if plan is not None and plan.total > most and config.over_limit == "refuse":
        raise IdaError(
            f"{named(values)}: it is planned to take {plan.total / 1e9:.1f} GB, and the limit is"
            f" {most / 1e9:.1f} GB",
            f"{memory.advice(config, device, most)}\nnothing was started",
            code=ExitCode.OUT_OF_MEMORY,
        )
    return Combination(values, None if plan is None else plan.total, most)


def _refuse_twins(configs: Sequence[Config], combinations: Sequence[Combination]) -> None:
    """Values that are typed in two ways and mean the same would be run twice and counted as two.

    Raises:
        UsageError: there are such values.
    """
    seen: dict[str, Combination] = {}
    for config, combination in zip(configs, combinations, strict=True):
        text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
        if text in seen:
            raise UsageError(
                f"{named(combination.values)} is the same run as {named(seen[text].values)}",
                "give each value once",
                where="command line",
            )
        seen[text] = combination


def opening(plan: Planned, *, jobs: int, budget: float | None) -> list[str]:
    """What is about to be run, and what it takes."""
    known = [one.planned for one in plan.combinations if one.planned is not None]
    most = min(one.limit for one in plan.combinations)
    memory_words = "memory not planned: the sizes of a model are not known before it is here"
    if known:
        memory_words = f"at most {max(known) / 1e9:.1f} of {most / 1e9:.1f} GB each"
        if jobs > 1:
            memory_words += f", {jobs} at once where they fit together"
    return [
        f"✓ {plan.grid.words()} = {len(plan.combinations)} runs of {plan.configs[0].name}, all checked",
        f"  {memory_words}",
        *([] if budget is None else [f"  ${budget:g} for the judges of all of them"]),
    ]
