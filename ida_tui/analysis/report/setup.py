"""What a run was made with, in words: the table of its setup, and the values that are not the usual ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pydantic import BaseModel

from ida_tui.analysis.comparison import flattened
from ida_tui.analysis.report.load import Facts
from ida_tui.config.schema import Config

UNKNOWN = "not known"
ELSEWHERE = ("name", "seed", "model.", "judge.", "rubric.", "prompts.", "output_dir")
"""Keys that have a row of their own in the table, or are data rather than settings."""
TOLD = ("judge.samples", "judge.temperature", "judge.max_unscored", "judge.concurrency")


class Row(NamedTuple):
    """One line of a table of two columns."""

    label: str
    value: str


def setup(facts: Facts) -> list[Row]:
    """What was trained, where, on what, and by whom it was scored."""
    run, config, made = facts.run.state.run, facts.run.config, facts.made
    rows = [Row("experiment", facts.run.summary.experiment)]
    if config is not None and config.description:
        rows.append(Row("about", config.description))
    if run is not None:
        share = 100 * run.trainable_params / run.params if run.params else 0
        trained = "LoRA" if run.method == "lora" else "all of it"
        rows += [
            Row("model", f"{run.model}, {run.params:,} parameters"),
            Row("trained", f"{trained}: {run.trainable_params:,} parameters ({share:.3g} %)"),
            Row("device", run.device),
            Row("precision", f"{run.dtype} base; {run.precision}"),
            Row("steps", f"{run.steps}, each {run.completions_per_step} completions"
                f" ({run.generations} of each prompt)"),
        ]  # fmt: skip
    rows += [Row("judge", facts.run.judge), Row("rubric", facts.run.rubric)]
    if config is not None:
        train, held = len(config.prompts.train()), len(config.prompts.held_out())
        rows.append(Row("prompts", f"{config.prompts.name}: {train} trained on, {held} held out"))
    elif facts.run.problem:
        # Where the folder lies on this machine is nobody's business.
        why = facts.run.problem.replace(f"{facts.run.directory.path}/", "")
        rows.append(Row("profile", f"cannot be read: {why}"))
    rows.append(Row("seed", str(run.seed) if run is not None else UNKNOWN))
    if made.started_at:
        rows.append(Row("started", made.started_at))
    if made.resumed:
        rows.append(Row("gone on with", f"{made.resumed} time{'s' * (made.resumed != 1)}"))
    versions = [("ida-tui", made.ida_tui), ("Python", made.python), *made.packages]
    known = ", ".join(f"{name} {version}" for name, version in versions if version)
    rows.append(Row("versions", known or UNKNOWN))
    if made.git:
        rows.append(Row("git revision", made.git))
    if made.platform:
        rows.append(Row("machine", made.platform))
    return rows


class Changed(NamedTuple):
    """A value of the profile that is not the default."""

    key: str
    value: str
    default: str


def changed(config: Config) -> list[Changed]:
    """The settings that differ from ida-tui's own defaults, in the order of the profile."""
    values, defaults = flattened(config), dict(_defaults(config))
    return [
        Changed(key, value, defaults[key])
        for key, value in values.items()
        if defaults.get(key, value) != value
        and (not key.startswith(ELSEWHERE) or key.startswith(TOLD))
    ]


def _defaults(config: Config) -> Iterator[tuple[str, str]]:
    """Dotted key → default, as `flattened` writes it; keys without one are left out."""
    yield from flattened(_with_defaults(config)).items()


def _with_defaults(section: Config) -> Config:
    return section.model_copy(update=_updates(section))


def _updates(section: BaseModel) -> Mapping[str, object]:
    """The default of every field that has one, and sections with theirs."""
    found: dict[str, object] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            found[name] = value.model_copy(update=_updates(value))
        elif not field.is_required():
            found[name] = field.get_default(call_default_factory=True)
    return found
