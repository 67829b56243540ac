"""Anybody's text as it is printed: on one line, without what acts on a terminal, and without a login."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

WIDEST = 44
"""Columns of one cell of a table; what is longer is cut."""


def quoted(value: object) -> str:
    """A value as an error shows it: short, on one line, text in quotes, printable anywhere."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if not isinstance(value, str):
        return "null" if value is None else str(value).lower()[:60]
    short = value if len(value) <= 60 else f"{value[:59]}…"
    return json.dumps(short.encode("utf-8", "replace").decode(), ensure_ascii=False)


def printable(line: str) -> str:
    """One line of anybody's text, without the characters that act on a terminal."""
    return "".join(c if c.isprintable() else "?" for c in line)


def printable_text(text: str) -> str:
    """Several lines of anybody's text: each is kept, without the characters that act on a terminal."""
    return "\n".join(map(printable, text.split("\n")))


# Valid in JSON, but not on a terminal (C1 controls, what turns the direction of text), for line
# readers (U+2028), or in UTF-8 (surrogates).
_ACTING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def as_json(value: object, *, indent: int | None = None) -> str:
    """A value as JSON that is safe to print and to write: what would act on a terminal is escaped.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    return _ACTING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def safe(key: str) -> str:
    """A key as printed: on one line, and not endless."""
    return printable(key)[:100]


def without_login(address: str) -> str:
    """A web address as printed: a user name or password in it is left out."""
    return re.sub(r"//[^/?#]*@", "//", address)


def table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """A label and cells a row, in columns as wide as they have to be.

    Args:
        head: names of the columns after the first.
        rows: each has as many cells as the head.
    """
    cells = [[_cut(cell) for cell in row] for _, row in rows]
    first = max((len(label) for label, _ in rows), default=0)
    columns = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    out = []
    for label, row in (
        ("", head),
        *((label, row) for (label, _), row in zip(rows, cells, strict=True)),
    ):
        texts = [f"{cell:<{width}}" for cell, width in zip(row, columns, strict=True)]
        out.append("   ".join([f"  {label:<{first}}", *texts]).rstrip())
    return out


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"
