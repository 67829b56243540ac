"""Meaning of the columns of a data set: which one is the prompt, which ones say kind, split and tags.

A role without a column in the profile is looked for by the names that public data sets use. Where the
prompt cannot be found, the error lists the columns and the words to type.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from ida_tui.errors import UsageError
from ida_tui.util.text import one_line, quoted, short_key

ROLES = ("prompt", "messages", "system", "history", "id", "kind", "split", "tags")
AUTOMATIC_NAMES: Mapping[str, tuple[str, ...]] = {
    "prompt": (
        "prompt", "question", "instruction", "query", "problem", "text", "input", "goal", "request",
    ),
    "messages": ("messages", "conversations", "conversation", "chat", "dialogue"),
    "system": ("system", "system_prompt"),
    "history": ("history",),
    "id": ("id", "prompt_id", "uid"),
    "kind": ("kind", "label", "type"),
    "split": ("split",),
    "tags": ("tags", "tag", "category"),
}  # fmt: skip
"""Role → names of columns in lower case, the first one that exists is taken."""
KIND_WORDS: Mapping[str, str] = {
    "safe": "harmless",
    "harmless": "harmless",
    "benign": "harmless",
    "unsafe": "unsafe",
    "harmful": "unsafe",
    "toxic": "unsafe",
    "malicious": "unsafe",
}
"""Word in a column, in lower case → kind of the prompt."""
SPLIT_WORDS: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "held-out": "held-out",
    "held_out": "held-out",
    "heldout": "held-out",
    "test": "held-out",
    "testing": "held-out",
    "validation": "held-out",
    "valid": "held-out",
    "val": "held-out",
    "dev": "held-out",
    "eval": "held-out",
}
"""Word in a column, in lower case → split of the prompt."""
_XSTEST_CONTRAST = "contrast_"


@dataclass(frozen=True, slots=True)
class ColumnRoles:
    """The columns of a data set by role; None where there is none."""

    columns: Mapping[str, str]
    """Role → name of its column."""
    found: frozenset[str]
    """Roles whose column was found by its name, not written in the profile."""

    def get(self, role: str) -> str | None:
        """The column of a role."""
        return self.columns.get(role)

    def without(self, role: str) -> ColumnRoles:
        """The roles without one whose column turned out to hold something else."""
        columns = {other: column for other, column in self.columns.items() if other != role}
        return ColumnRoles(columns, self.found - {role})

    @property
    def is_jbb(self) -> bool:
        """Whether the data set has the layout of JBB-Behaviors, whose file name tells the kind."""
        return "prompt" in self.found and self.columns.get("prompt", "").lower() == "goal"

    def describe(self) -> str:
        """The roles that were found by name, such as `prompt ← question, tags ← tag`."""
        return ", ".join(
            f"{role} ← {short_key(self.columns[role])}"
            for role in ROLES
            if role in self.found and role in self.columns
        )


def find_roles(names: Iterable[str], chosen: Mapping[str, str], where: str) -> ColumnRoles:
    """The roles of the columns of a data set.

    Args:
        names: the columns of the first rows, in order.
        chosen: role → column as written in the profile; an empty name means that there is none.
        where: name of the data set, for messages.

    Raises:
        UsageError: a chosen column does not exist, or the column of the prompt cannot be found.
    """
    names = list(names)
    by_name = {name.strip().lower(): name for name in reversed(names)}
    columns: dict[str, str] = {}
    for role, name in chosen.items():
        if not name:
            continue
        column = name if name in names else by_name.get(name.strip().lower())
        if column is None:
            close = difflib.get_close_matches(name, names, n=1)
            raise UsageError(
                f"{where} has no column {quoted(name)}; its columns: {_list_names(names)}",
                f"did you mean prompts.columns.{role}={close[0]}?"
                if close
                else f"set prompts.columns.{role} to one of them",
                where=f"prompts.columns.{role}",
            )
        columns[role] = column
    found = set()
    has_prompt = "prompt" in columns or "messages" in columns
    for role, candidates in AUTOMATIC_NAMES.items():
        if role in chosen or (has_prompt and role in ("prompt", "messages")):
            continue
        column = next(
            (by_name[c] for c in candidates if c in by_name and by_name[c] not in columns.values()),
            None,
        )
        if role == "prompt" and column and column.lower() == "goal" and "behavior" not in by_name:
            column = None
        if role == "messages" and "prompt" in columns and columns["prompt"].lower() != "text":
            continue
        if column is not None:
            columns[role] = column
            found.add(role)
    if "messages" in columns and "prompt" in found:
        # A text beside the messages is the conversation after a chat template.
        del columns["prompt"]
    if "prompt" not in columns and "messages" not in columns:
        raise UsageError(
            f"cannot tell which column of {where} is the prompt; its columns: {_list_names(names)}",
            "name it: prompts.columns.prompt=NAME   (or prompts.columns.messages=NAME for conversations)"
            + (f"\nsuch as prompts.columns.prompt={one_line(names[0])[:60]}" if names else ""),
            where="prompts.columns.prompt",
        )
    return ColumnRoles(columns, frozenset(found & columns.keys()))


def kind_of_word(word: str, column: str) -> str | None:
    """The kind that a cell names; None if the word is not known.

    Args:
        word: the text of the cell.
        column: name of the column; `type` has the layout of XSTest, where `contrast_…` is unsafe.
    """
    word = word.strip().lower()
    known = KIND_WORDS.get(word)
    if known is None and column.strip().lower() == "type" and word.startswith(_XSTEST_CONTRAST):
        return "unsafe"
    return known


def kind_of_file_name(name: str) -> str | None:
    """The kind that the name of a JBB-Behaviors file tells; None if it tells none or both."""
    name = PurePath(name).name.lower()
    unsafe, harmless = "harmful" in name, "benign" in name or "harmless" in name
    if unsafe == harmless:
        return None
    return "unsafe" if unsafe else "harmless"


def _list_names(names: list[str]) -> str:
    shown = ", ".join(short_key(name) for name in names[:12])
    return (shown + (", …" if len(names) > 12 else "")) or "none"
