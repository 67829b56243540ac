"""Selection on the launch screen: experiment, model, judge, and edited values. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import yaml

from ida_tui.config.listing import value_rows
from ida_tui.config.resolve import ResolvedExperiment, resolve
from ida_tui.config.trust.consent import Use
from ida_tui.config.yaml_tree import Value
from ida_tui.errors import UsageError


@dataclass(frozen=True, slots=True)
class ProfileSelection:
    """The profiles and edited values of the run to start.

    Args:
        experiment: name of the experiment profile.
        model: name of a model profile; empty for the experiment's default.
        judge: name of a judge profile; empty for the experiment's default.
        edits: dotted key → value as typed.
    """

    experiment: str
    model: str = ""
    judge: str = ""
    edits: Mapping[str, str] = field(default_factory=dict)

    @property
    def overrides(self) -> list[str]:
        """The selection as `key=value` arguments of the command line."""
        named = [("model", self.model), ("judge", self.judge)]
        return [f"{key}={value}" for key, value in (*named, *self.edits.items()) if value]

    def with_edit(self, key: str, text: str) -> ProfileSelection:
        """A copy with one value edited."""
        return replace(self, edits={**self.edits, key: text})

    def without_edit(self, key: str) -> ProfileSelection:
        """A copy with one edit undone."""
        return replace(self, edits={k: v for k, v in self.edits.items() if k != key})

    def resolve_config(
        self, *, verify: bool = False, uses: tuple[Use, ...] = ()
    ) -> ResolvedExperiment:
        """Resolve the selection to a configuration.

        Raises:
            UsageError: a profile or a value is invalid.
            ConsentRequired: the person has not agreed to one of these uses.
        """
        return resolve(self.experiment, self.overrides, verify=verify, uses=uses, data="local")

    def validate(self, key: str, text: str) -> UsageError | None:
        """The error that this value would cause; None if it is valid."""
        if not text.strip():
            return UsageError(
                "a value is required", "type null to use the default value, if the key has one"
            )
        try:
            self.with_edit(key, text).resolve_config(verify=True)
        except UsageError as error:
            return error
        return None


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One row of the profile table. A section heading has no origin."""

    key: str
    """Dotted key."""
    name: str
    value: str
    origin: str
    edited: bool = False

    @property
    def is_heading(self) -> bool:
        """Whether the row is a section heading."""
        return not self.origin

    @property
    def short_origin(self) -> str:
        """File name and line without the directories, or `default`."""
        return self.origin.rpartition("/")[2]


def profile_rows(
    resolved: ResolvedExperiment, edits: Mapping[str, str], filter_text: str = ""
) -> list[ProfileRow]:
    """Rows of the profile table by section, the most edited sections first.

    Args:
        resolved: the resolved experiment.
        edits: values edited on the screen, by dotted key.
        filter_text: show only keys that contain this text, ignoring case.
    """
    sections: dict[str, list[ProfileRow]] = {}
    for key, value, origin in value_rows(resolved):
        if filter_text.casefold() not in key.casefold():
            continue
        section, _, name = key.rpartition(".") if "." in key else ("", "", key)
        top = section.split(".")[0]
        name = key[len(top) + 1 :] if top else name
        row = ProfileRow(key, name, value, origin or "default", key in edits)
        sections.setdefault(top, []).append(row)
    order = ("training", "lora", "", "model", "judge", "evaluation", "prompts", "rubric")
    out: list[ProfileRow] = []
    for section in sorted(sections, key=lambda s: order.index(s) if s in order else 99):
        out.append(ProfileRow(section, section or "run", "", ""))
        out += sections[section]
    return out


def editable_value(resolved: ResolvedExperiment, key: str) -> str:
    """The full value of a key as it would be typed."""
    value: object = resolved.config.model_dump()
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return format_value(value)  # type: ignore[arg-type]


def format_value(value: Value) -> str:
    """A value as YAML on one line."""
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-")
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n...\n").strip()
