"""Printing of plain lines; control characters from files and servers are replaced."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TextIO

from ida_tui.util.text import one_line


def print_lines(lines: Iterable[str], file: TextIO | None = None) -> None:
    """Print lines, on stdout by default."""
    print(*map(one_line, lines), sep="\n", file=file, flush=True)


def print_status(line: str) -> None:
    """Print a line about the progress of a command, on stderr."""
    print(one_line(line), file=sys.stderr, flush=True)
