"""Result of a check: an error, a note, or a confirmation, with a suggested fix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Severity = Literal["good", "note", "error"]
MARKS: Mapping[Severity, str] = {"good": "✓", "note": "!", "error": "✗"}
"""Sign before a finding, by its severity."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; contains no secrets."""

    severity: Severity
    about: str
    """The subject of the check, such as a dotted config key or `disk`."""
    text: str
    """The result, a sentence without a period."""
    fix: str = ""
    """What to do; empty if nothing needs to be done."""
    related_keys: tuple[str, ...] = ()
    """Other config keys that the finding depends on."""


def error_finding(key: str, text: str, fix: str, *related_keys: str) -> Finding:
    """A finding that prevents a run."""
    return Finding("error", key, text, fix, related_keys)


def note_finding(key: str, text: str, fix: str) -> Finding:
    """A finding that is only printed."""
    return Finding("note", key, text, fix)
