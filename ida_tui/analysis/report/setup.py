"""Setup table of a report, and the settings that differ from the defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pydantic import BaseModel

from ida_tui.analysis.comparison import flattened
from ida_tui.analysis.report.load import Facts
from ida_tui.config.schema import Config

UNKNOWN = "unknown"
ELSEWHERE = ("name", "seed", "model.", "judge.", "rubric.", "prompts.", "output_dir")
"""Key prefixes that are shown in the setup table, or are data rather than settings."""
TOLD = ("judge.samples", "judge.temperature", "judge.max_unscored", "judge.concurrency")
"""Exceptions to `ELSEWHERE` that are listed as changed settings."""


class Row(NamedTuple):
    """One row of a two-column table."""

    label: str
    value: str


def setup(facts: Facts) -> list[Row]:
    """Rows for model, device, prompts, judge and versions."""
    run, config, provenance = facts.run.state.run, facts.run.config, facts.made
    rows = [Row("experiment", facts.run.summary.experiment)]
    if config is not None and config.description:
        rows.append(Row("about", config.description))
    if run is not None:
        share = 100 * run.trainable_params / run.params if run.params else 0
        trained = "LoRA" if run.method == "lora" else "all weights"
        rows += [
            Row("model", f"{run.model}, {run.params:,} parameters"),
            Row("trained", f"{trained}: {run.trainable_params:,} parameters ({share:.3g}%)"),
            Row("device", run.device),
            Row("precision", f"{run.dtype} base; {run.precision}"),
            Row("steps", f"{run.steps}, each {run.completions_per_step} completions"
                f" ({run.generations} per prompt)"),
        ]  # fmt: skip
    rows += [Row("judge", facts.run.judge), Row("rubric", facts.run.rubric)]
    if config is not None:
        train, held = len(config.prompts.train()), len(config.prompts.held_out())
        rows.append(Row("prompts", f"{config.prompts.name}: {train} for training, {held} held out"))
    elif facts.run.problem:
        # Do not reveal the local path.
        reason = facts.run.problem.replace(f"{facts.run.directory.path}/", "")
        rows.append(Row("profile", f"could not be read: {reason}"))
    rows.append(Row("seed", str(run.seed) if run is not None else UNKNOWN))
    if provenance.started_at:
        rows.append(Row("started", provenance.started_at))
    if provenance.resumed:
        rows.append(Row("resumed", f"{provenance.resumed} time{'s' * (provenance.resumed != 1)}"))
    versions = [
        ("ida-tui", provenance.ida_tui),
        ("Python", provenance.python),
        *provenance.packages,
    ]
    known = ", ".join(f"{name} {version}" for name, version in versions if version)
    rows.append(Row("versions", known or UNKNOWN))
    if provenance.git:
        rows.append(Row("git revision", provenance.git))
    if provenance.platform:
        rows.append(Row("machine", provenance.platform))
    return rows


class Changed(NamedTuple):
    """A setting that differs from its default."""

    key: str
    value: str
    default: str


def changed(config: Config) -> list[Changed]:
    """The settings that differ from the defaults of ida-tui, in the order of the config."""
    values, defaults = flattened(config), dict(_defaults(config))
    return [
        Changed(key, value, defaults[key])
        for key, value in values.items()
        if defaults.get(key, value) != value
        and (not key.startswith(ELSEWHERE) or key.startswith(TOLD))
    ]


def _defaults(config: Config) -> Iterator[tuple[str, str]]:
    """Dotted key and default value of every setting that has a default."""
    yield from flattened(_with_defaults(config)).items()


def _with_defaults(section: Config) -> Config:
    return section.model_copy(update=_updates(section))


def _updates(section: BaseModel) -> Mapping[str, object]:
    """The default of every field that has one, recursively."""
    updates: dict[str, object] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            updates[name] = value.model_copy(update=_updates(value))
        elif not field.is_required():
            updates[name] = field.get_default(call_default_factory=True)
    return updates
