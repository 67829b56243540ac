"""Setup table of a report, and the settings that differ from the defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pydantic import BaseModel

from ida_tui.analysis.comparison import flatten_config, has_judge, judge_label, rubric_label
from ida_tui.analysis.report.load import ReportInputs
from ida_tui.config.schema import Config
from ida_tui.events import types as ev
from ida_tui.util.format import format_count

UNKNOWN = "unknown"
EXCLUDED_KEYS = ("name", "seed", "model.", "judge.", "rubric.", "prompts.", "output_dir")
"""Key prefixes that are shown in the setup table, or are data rather than settings."""
INCLUDED_KEYS = ("judge.samples", "judge.temperature", "judge.max_unscored", "judge.concurrency")
"""Exceptions to the excluded keys; these are listed as changed settings."""


class LabelRow(NamedTuple):
    """One row of a two-column table."""

    label: str
    value: str


def setup_rows(inputs: ReportInputs) -> list[LabelRow]:
    """Rows for model, device, prompts, judge and versions."""
    run, provenance = inputs.run.state.run, inputs.provenance
    config = None if inputs.run.config_error else inputs.run.config
    rows = [LabelRow("experiment", inputs.run.experiment)]
    if config is not None and config.description:
        rows.append(LabelRow("about", config.description))
    if run is not None:
        share = 100 * run.trainable_params / run.params if run.params else 0
        trained = "LoRA" if run.method == "lora" else "all weights"
        rows += [
            LabelRow("model", f"{run.model}, {run.params:,} parameters"),
            LabelRow("trained", f"{trained}: {run.trainable_params:,} parameters ({share:.3g}%)"),
            LabelRow("device", run.device),
            LabelRow("precision", f"{run.dtype} base; {run.precision}"),
            LabelRow("steps", f"{run.steps}, each {run.completions_per_step} completions"
                f" ({run.generations} per prompt)"),
        ]  # fmt: skip
    rows += [
        LabelRow("judge" if has_judge(inputs.run) else "scored by", judge_label(inputs.run)),
        LabelRow("rubric", rubric_label(inputs.run)),
    ]
    if config is not None:
        rows.append(LabelRow("prompts", f"{config.prompts.name}: {_count_prompts(config, run)}"))
    else:
        # Do not reveal the local path.
        reason = inputs.run.config_error.replace(f"{inputs.run.directory}/", "")
        rows.append(LabelRow("profile", f"could not be read: {reason}"))
    rows.append(LabelRow("seed", str(run.seed) if run is not None else UNKNOWN))
    if provenance.started_at:
        rows.append(LabelRow("started", provenance.started_at))
    if provenance.resume_count:
        rows.append(LabelRow("resumed", format_count(provenance.resume_count, "time")))
    versions = [
        ("ida-tui", provenance.ida_tui),
        ("Python", provenance.python),
        *provenance.packages,
    ]
    known = ", ".join(f"{name} {version}" for name, version in versions if version)
    rows.append(LabelRow("versions", known or UNKNOWN))
    if provenance.git:
        rows.append(LabelRow("git revision", provenance.git))
    if provenance.platform:
        rows.append(LabelRow("machine", provenance.platform))
    return rows


class ChangedSetting(NamedTuple):
    """A setting that differs from its default."""

    key: str
    value: str
    default: str


def changed_settings(config: Config) -> list[ChangedSetting]:
    """The settings that differ from the defaults of ida-tui, in the order of the config."""
    values, defaults = flatten_config(config), dict(_flattened_defaults(config))
    return [
        ChangedSetting(key, value, defaults[key])
        for key, value in values.items()
        if defaults.get(key, value) != value
        and (not key.startswith(EXCLUDED_KEYS) or key.startswith(INCLUDED_KEYS))
    ]


def _count_prompts(config: Config, run: ev.RunStarted | None) -> str:
    if config.prompts.problem:
        count = run.prompts if run is not None else UNKNOWN
        return f"{count} for training; the data cannot be read on this machine"
    train, held = len(config.prompts.train()), len(config.prompts.held_out())
    return f"{train} for training, {held} held out"


def _flattened_defaults(config: Config) -> Iterator[tuple[str, str]]:
    """Dotted key and default value of every setting that has a default."""
    yield from flatten_config(_with_defaults(config)).items()


def _with_defaults(section: Config) -> Config:
    return section.model_copy(update=_default_values(section))


def _default_values(section: BaseModel) -> Mapping[str, object]:
    """The default of every field that has one, recursively."""
    updates: dict[str, object] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            updates[name] = value.model_copy(update=_default_values(value))
        elif not field.is_required():
            updates[name] = field.get_default(call_default_factory=True)
    return updates
