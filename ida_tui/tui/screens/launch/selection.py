"""Selection on the launch screen: experiment, model, judge, and edited values. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import yaml

from ida_tui.config.listing import rows
from ida_tui.config.resolve import Resolved, resolve
from ida_tui.config.yaml_tree import Value
from ida_tui.errors import UsageError


@dataclass(frozen=True, slots=True)
class Choice:
    """The profiles and edited values of the run to start.

    Args:
        experiment: name of the experiment profile.
        model: name of a model profile; empty for the experiment's default.
        judge: name of a judge profile; empty for the experiment's default.
        changes: dotted key → value as typed.
    """

    experiment: str
    model: str = ""
    judge: str = ""
    changes: Mapping[str, str] = field(default_factory=dict)

    @property
    def overrides(self) -> list[str]:
        """The selection as ``key=value`` arguments of the command line."""
        named = [("model", self.model), ("judge", self.judge)]
        return [f"{key}={value}" for key, value in (*named, *self.changes.items()) if value]

    def changed(self, key: str, text: str) -> Choice:
        """A copy with one value edited."""
        return replace(self, changes={**self.changes, key: text})

    def unchanged(self, key: str) -> Choice:
        """A copy with one edit undone."""
        return replace(self, changes={k: v for k, v in self.changes.items() if k != key})

    def resolved(self, *, verify: bool = False) -> Resolved:
        """Resolve the selection to a configuration.

        Raises:
            UsageError: a profile or a value is invalid.
        """
        return resolve(self.experiment, self.overrides, verify=verify)

    def problem(self, key: str, text: str) -> UsageError | None:
        """The error that this value would cause; None if it is valid."""
        if not text.strip():
            return UsageError(
                "a value is required", "type null for the default, if the key has one"
            )
        try:
            self.changed(key, text).resolved(verify=True)
        except UsageError as error:
            return error
        return None


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the profile table. A section heading has no origin."""

    key: str
    """Dotted key."""
    name: str
    value: str
    origin: str
    changed: bool = False

    @property
    def heading(self) -> bool:
        """Whether the row is a section heading."""
        return not self.origin

    @property
    def place(self) -> str:
        """File name and line without the directories, or `default`."""
        return self.origin.rpartition("/")[2]


def table(resolved: Resolved, changes: Mapping[str, str], letters: str = "") -> list[Row]:
    """Rows of the profile table by section, the most edited sections first.

    Args:
        resolved: the resolved experiment.
        changes: values edited on the screen, by dotted key.
        letters: show only keys that contain this text, ignoring case.
    """
    sections: dict[str, list[Row]] = {}
    for key, value, origin in rows(resolved):
        if letters.casefold() not in key.casefold():
            continue
        section, _, name = key.rpartition(".") if "." in key else ("", "", key)
        top = section.split(".")[0]
        name = key[len(top) + 1 :] if top else name
        row = Row(key, name, value, origin or "default", key in changes)
        sections.setdefault(top, []).append(row)
    order = ("training", "lora", "", "model", "judge", "evaluation", "prompts", "rubric")
    out: list[Row] = []
    for section in sorted(sections, key=lambda s: order.index(s) if s in order else 99):
        out.append(Row(section, section or "run", "", ""))
        out += sections[section]
    return out


def as_typed(resolved: Resolved, key: str) -> str:
    """The full value of a key as it would be typed."""
    value: object = resolved.config.model_dump()
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return typed(value)  # type: ignore[arg-type]


def typed(value: Value) -> str:
    """A value as YAML on one line."""
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-")
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n...\n").strip()
