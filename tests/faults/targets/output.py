"""Checks of what a target prints: no character that a terminal interprets."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator


class Defect(Exception):
    """The program printed or returned something that it must not."""


@contextlib.contextmanager
def checked_output() -> Iterator[None]:
    """Capture the output of the block as UTF-8; a character that a terminal interprets is a defect."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n", write_through=True)
    err = io.TextIOWrapper(
        io.BytesIO(), encoding="utf-8", newline="\n", write_through=True, errors="backslashreplace"
    )
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield
    for stream in (out, err):
        check_printable(stream.buffer.getvalue().decode())


def check_printable(text: str) -> None:
    """Raise `Defect` if a text has a character that a terminal interprets."""
    if match := _INTERPRETED.search(text):
        context = text[max(0, match.start() - 40) : match.start() + 40]
        raise Defect(f"{match[0]!r} is printed: {context!r}")


# Control characters except the newline, line separators, surrogates, and marks of text direction.
_INTERPRETED = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
