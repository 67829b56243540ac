"""Fill the templates and put the files in their place, in one step each.

written = write(directory)
print(written.html, written.markdown)
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ida_tui.errors import UsageError
from ida_tui.runs.directory import RunDirectory
from ida_tui.util.paths import shown_path
from ida_tui.util.text import printable_text

if TYPE_CHECKING:
    from markupsafe import Markup

    from ida_tui.analysis.report.page import Page
    from ida_tui.events.types import RunEnded

NAME = "report.html"
TEMPLATES = Path(__file__).parent / "templates"
_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>#|~&!$]|^[+=-]|(?<=^\d)[.)]")
"""What may mean something to Markdown; an escaped one is only itself."""


class Written(NamedTuple):
    """Where a report lies."""

    html: Path
    markdown: Path


def write(
    directory: RunDirectory, output: Path | None = None, *, ended: RunEnded | None = None
) -> Written:
    """Write the report of a run, as one HTML file and as Markdown.

    Args:
        directory: the run; finished, unfinished or live.
        output: the HTML file, or a folder for both; None is the run's directory.
        ended: the run's last event, where that is about to be written.

    Raises:
        UsageError: the run cannot be read, or the files cannot be written.
    """
    from ida_tui.analysis.report.load import read
    from ida_tui.analysis.report.page import page

    places = _places(directory, output)
    shown = page(read(directory, ended))
    for place, text in ((places.html, html(shown)), (places.markdown, markdown(shown))):
        _put(place, text)
    return places


def html(shown: Page) -> str:
    """The page as HTML that needs nothing else."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        finalize=_clean, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))
    return made.get_template("report.html.j2").render(page=shown, style=style, drawn=Markup)


def markdown(shown: Page) -> str:
    """The page as Markdown: no pictures, the same words."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(  # escaped by `finalize`: what is not marked as Markdown is text
        loader=FileSystemLoader(TEMPLATES), autoescape=False, undefined=StrictUndefined,
        finalize=_escaped, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    made.filters["fenced"] = fenced
    made.filters["ours"] = Markup  # what a macro has put together, escaped by it
    text = made.get_template("report.md.j2").render(page=shown, html=NAME)
    return re.sub(r"\n{3,}", "\n\n", text)


def _clean(value: object) -> object:
    """Anybody's text without what acts on a terminal or turns the direction of text; jinja2 escapes it."""
    from markupsafe import Markup

    if isinstance(value, Markup):
        return value
    return printable_text(str(value).expandtabs(4).replace("\r\n", "\n"))


def _escaped(value: object) -> object:
    """Anybody's text within a line of Markdown."""
    from markupsafe import Markup

    if isinstance(value, Markup):
        return value
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(str(_clean(value)).split()))


def fenced(text: str, kind: str = "text") -> Markup:
    """Anybody's text as a block of code, behind a fence that is longer than any in it."""
    from markupsafe import Markup

    body = str(_clean(text))
    longest = max(map(len, re.findall(r"`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}{kind}\n{body.rstrip()}\n{fence}")  # a fence escapes


# --- files --------------------------------------------------------------------------------------


def _places(directory: RunDirectory, output: Path | None) -> Written:
    if output is None:
        output = directory.path
    if output.is_dir():
        output /= NAME
    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            f"a report is an .html file, and {output.name!r} is none",
            "the Markdown is written beside it: --output somewhere/report.html",
            where="command line: --output",
        )
    if not output.parent.is_dir():
        raise UsageError(
            f"there is no folder {shown_path(output.parent)}", "make it first, or name another"
        )
    return Written(output, output.with_suffix(".md"))


def _put(place: Path, text: str) -> None:
    beside = place.with_name(f".{place.name}-{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(place)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise UsageError(
            f"{shown_path(place)} cannot be written: {error.strerror or error}",
            "ida-tui report RUN --output FILE writes it elsewhere",
        ) from None


def as_json(written: Written) -> dict[str, str]:
    """The places as plain values."""
    return {name: str(path) for name, path in written._asdict().items()}
