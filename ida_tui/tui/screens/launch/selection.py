"""What is chosen on the launch screen: an experiment, a model, a judge, and changed values. Pure."""

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
    """What a run would be made of.

    Args:
        experiment: a profile's name.
        model: another model than the experiment's own; empty for its own.
        judge: another judge; empty for its own.
        changes: dotted key → the text that was typed.
    """

    experiment: str
    model: str = ""
    judge: str = ""
    changes: Mapping[str, str] = field(default_factory=dict)

    @property
    def overrides(self) -> list[str]:
        """The choice as a command line writes it."""
        named = [("model", self.model), ("judge", self.judge)]
        return [f"{key}={value}" for key, value in (*named, *self.changes.items()) if value]

    def changed(self, key: str, text: str) -> Choice:
        """The choice with one value changed."""
        return replace(self, changes={**self.changes, key: text})

    def unchanged(self, key: str) -> Choice:
        """The choice with one change taken back."""
        return replace(self, changes={k: v for k, v in self.changes.items() if k != key})

    def resolved(self, *, verify: bool = False) -> Resolved:
        """The experiment that it means.

        Raises:
            UsageError: something in it is wrong.
        """
        return resolve(self.experiment, self.overrides, verify=verify)

    def problem(self, key: str, text: str) -> UsageError | None:
        """What would be wrong with this value of this key; None if nothing."""
        if not text.strip():
            return UsageError("a value is needed", "null takes the default where there is one")
        try:
            self.changed(key, text).resolved(verify=True)
        except UsageError as error:
            return error
        return None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the profile table; a heading has no origin."""

    key: str
    """Dotted."""
    name: str
    value: str
    origin: str
    changed: bool = False

    @property
    def heading(self) -> bool:
        """Whether it only names a section."""
        return not self.origin

    @property
    def place(self) -> str:
        """File and line without the folders, or the word for a default."""
        return self.origin.rpartition("/")[2]


def table(resolved: Resolved, changes: Mapping[str, str], letters: str = "") -> list[Row]:
    """The profile as lines, by section: first what a person changes most.

    Args:
        resolved: the experiment.
        changes: what was changed on the screen.
        letters: only keys with these letters.
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
    """A value, whole, as a person would type it."""
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
