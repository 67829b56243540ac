"""Helpers that make untrusted text safe to print: one line, no control characters, no credentials."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

MAX_CELL_WIDTH = 44
"""Maximum width of a table cell, in columns; longer text is truncated."""


def quoted(value: object) -> str:
    """A value as shown in an error message: short, on one line, with text in quotes."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if not isinstance(value, str):
        return "null" if value is None else str(value).lower()[:60]
    short = value if len(value) <= 60 else f"{value[:59]}…"
    return json.dumps(short.encode("utf-8", "replace").decode(), ensure_ascii=False)


_JOINERS = "\u200c\u200d"
"""Invisible parts of emoji and of the scripts of Persia and India, which Python calls not printable."""


def one_line(line: str) -> str:
    """One line of untrusted text: spaces of all widths are spaces, and other non-printable characters `?`."""
    return printable(line, "?")


def printable(text: str, other: str) -> str:
    """A text with spaces of all widths as spaces, and `other` for every other non-printable character."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in _JOINERS else " " if unicodedata.category(c) == "Zs" else other
        for c in text
    )


def multiple_lines(text: str) -> str:
    """Several lines of untrusted text; non-printable characters except newlines are replaced by `?`."""
    return "\n".join(map(one_line, text.split("\n")))


_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")

# Valid in JSON, but unsafe on a terminal (C1 controls, changes of text direction), for programs that split
# lines (U+2028), or in UTF-8 (surrogates).
_UNSAFE_CHARACTERS = re.compile(
    "[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def as_json(value: object, *, indent: int | None = None) -> str:
    """A value as JSON that is safe to print and to write: terminal control characters are escaped.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    return _UNSAFE_CHARACTERS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; half of a surrogate pair, which no file or terminal accepts, becomes `?`.

    Raises:
        ValueError: the text is not JSON, is not UTF-8, or is nested too deeply.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return _without_surrogates(value) if _SURROGATE_ESCAPE.search(text) else value


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


def short_key(key: str) -> str:
    """A key as printed: on one line, at most 100 characters."""
    return one_line(key)[:100]


def strip_credentials(url: str) -> str:
    """A URL as printed, without user name and password."""
    return re.sub(r"//[^/?#]*@", "//", url)


def table_lines(
    column_names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]
) -> list[str]:
    """A table as lines of text; each column is as wide as its longest cell.

    Args:
        column_names: names of the columns after the first.
        rows: label and cells of each row; as many cells as there are column names.
    """
    cells = [[_truncate_cell(cell) for cell in row] for _, row in rows]
    first = max((cell_length(label) for label, _ in rows), default=0)
    columns = [max(map(cell_length, column)) for column in zip(column_names, *cells, strict=True)]
    lines = []
    for label, row in (
        ("", column_names),
        *((label, row) for (label, _), row in zip(rows, cells, strict=True)),
    ):
        padded = [pad_right(cell, width) for cell, width in zip(row, columns, strict=True)]
        lines.append("   ".join([f"  {pad_right(label, first)}", *padded]).rstrip())
    return lines


def pad_right(text: str, width: int) -> str:
    """A text with spaces up to a width in terminal cells; a letter of Chinese has two cells."""
    return text + " " * (width - cell_length(text))


def cell_length(text: str) -> int:
    """The width of a text in terminal cells."""
    from rich.cells import cell_len  # listings of runs need no table

    return cell_len(text)


def _truncate_cell(text: str) -> str:
    from rich.cells import set_cell_size

    if cell_length(text) <= MAX_CELL_WIDTH:
        return text
    return f"{set_cell_size(text, MAX_CELL_WIDTH - 1).rstrip()}…"


_SPACELESS = (
    "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46"  # Thai
    "\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd\u0ec0-\u0ec6\u0edc-\u0edf"  # Lao
    "\u1000-\u102a\u103f\u1050-\u1055\u1780-\u17b3"  # Burmese, Khmer
    "\u3041-\u3096\u30a1-\u30fa\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Letters of scripts that put no spaces between words, as ranges of a regular expression."""
SPACELESS_LETTER = f"[{_SPACELESS}]"
_SPACELESS_LETTER = re.compile(SPACELESS_LETTER)


_SPACELESS_WORD = re.compile(rf"{SPACELESS_LETTER}|[^{_SPACELESS}]+")


def split_words(text: str) -> list[str]:
    """The words of a text: split at spaces, and into letters in scripts that put none between words.

    Between such letters a word is what has a letter or a digit: 用kill命令。 has four words.
    """
    if text.isascii():
        return text.split()
    return [word for token in text.split() for word in _words_in(token)]


def _words_in(token: str) -> list[str]:
    """The words in a text without spaces."""
    if not _SPACELESS_LETTER.search(token):
        return [token]
    return [word for word in _SPACELESS_WORD.findall(token) if any(map(str.isalnum, word))]


def join_words(words: Sequence[str]) -> str:
    """Words as text: `align, risk and detail`; empty for no words."""
    *first, last = words or ("",)
    return f"{', '.join(first)} and {last}" if first else last


_PUNCTUATION_WITH_A_MEANING = "#%&*/@\\§¶†‡‰"
"""Characters that Unicode calls punctuation, but that may be an answer: which sign starts a comment?"""


def is_blank(text: str) -> bool:
    """Whether a text is no answer: nothing but spaces, control characters, and marks of sentences.

    A letter, a digit, a symbol such as ∞ and an emoji are answers. Marks such as "?" or ":" are not: some
    judges pay for them alone.
    """
    return all(
        unicodedata.category(character) in ("Cc", "Cf", "Cs")
        or (
            unicodedata.category(character)[0] in "ZP"
            and character not in _PUNCTUATION_WITH_A_MEANING
        )
        for character in text
    )
