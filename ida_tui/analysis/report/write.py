"""HTML and Markdown files of a report, rendered and written atomically.

paths = write_report(directory)
print(paths.html, paths.markdown)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ida_tui.errors import UsageError
from ida_tui.runs.directory import RunDirectory
from ida_tui.util.paths import display_path
from ida_tui.util.safe_files import write_text
from ida_tui.util.text import multiple_lines

if TYPE_CHECKING:
    from markupsafe import Markup

    from ida_tui.analysis.report.page import ReportPage
    from ida_tui.events.types import RunEnded

REPORT_NAME = "report.html"
TEMPLATE_FOLDER = Path(__file__).parent / "templates"
_MARKDOWN_SYNTAX = re.compile(r"[\\`*_{}\[\]<>#|~&!$]|^[+=-]|(?<=^\d)[.)]")
"""Characters with a meaning in Markdown, to be escaped with a backslash."""


class ReportPaths(NamedTuple):
    """Paths of a written report."""

    html: Path
    markdown: Path


def write_report(
    directory: RunDirectory, output: Path | None = None, *, ended: RunEnded | None = None
) -> ReportPaths:
    """Write the report of a run as an HTML file and a Markdown file.

    Args:
        directory: the run; finished, unfinished or live.
        output: the HTML file, or a folder for both files; None is the run directory.
        ended: the run's final event, if it is not written to disk yet.

    Raises:
        UsageError: the run cannot be read, or the files cannot be written.
    """
    from ida_tui.analysis.report.load import load_report_inputs
    from ida_tui.analysis.report.page import build_page

    paths = _resolve_paths(directory, output)
    content = build_page(load_report_inputs(directory, ended))
    for path, text in (
        (paths.html, render_html(content)),
        (paths.markdown, render_markdown(content)),
    ):
        _write_atomically(path, text)
    return paths


def render_html(content: ReportPage) -> str:
    """The page as self-contained HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATE_FOLDER), autoescape=True, undefined=StrictUndefined,
        finalize=_sanitize, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style = Markup((TEMPLATE_FOLDER / "report.css").read_text(encoding="utf-8"))
    return environment.get_template("report.html.j2").render(
        page=content, style=style, drawn=Markup
    )


def render_markdown(content: ReportPage) -> str:
    """The page as Markdown, with the same text but without plots."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(  # `finalize` escapes everything that is not Markup
        loader=FileSystemLoader(TEMPLATE_FOLDER), autoescape=False, undefined=StrictUndefined,
        finalize=_escape_markdown, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["fenced"] = fence_code
    environment.filters["ours"] = Markup  # output of a macro, which is already escaped
    text = environment.get_template("report.md.j2").render(page=content, html=REPORT_NAME)
    return re.sub(r"\n{3,}", "\n\n", text)


def _sanitize(value: object) -> object:
    """Untrusted text without control and bidirectional characters; jinja2 does the HTML escaping."""
    from markupsafe import Markup

    if isinstance(value, Markup):
        return value
    return multiple_lines(str(value).expandtabs(4).replace("\r\n", "\n"))


def _escape_markdown(value: object) -> object:
    """Untrusted text escaped for one line of Markdown."""
    from markupsafe import Markup

    if isinstance(value, Markup):
        return value
    return _MARKDOWN_SYNTAX.sub(r"\\\g<0>", " ".join(str(_sanitize(value)).split()))


def fence_code(text: str, language: str = "text") -> Markup:
    """Untrusted text as a fenced code block; the fence is longer than any run of backticks in the text."""
    from markupsafe import Markup

    body = str(_sanitize(text))
    longest = max(map(len, re.findall(r"`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(
        f"{fence}{language}\n{body.rstrip()}\n{fence}"
    )  # inside a fence nothing needs escaping


# --- files --------------------------------------------------------------------------------------


def _resolve_paths(directory: RunDirectory, output: Path | None) -> ReportPaths:
    if output is None:
        output = directory.path
    if output.is_dir():
        output /= REPORT_NAME
    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            f"a report must be an .html file, not {output.name!r}",
            "use --output FOLDER/report.html; the Markdown file is written next to it",
            where="command line: --output",
        )
    if not output.parent.is_dir():
        raise UsageError(
            f"the folder {display_path(output.parent)} does not exist",
            "create it first, or use another folder",
        )
    return ReportPaths(output, output.with_suffix(".md"))


def _write_atomically(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:
        raise UsageError(
            f"could not write {display_path(path)}: {error.strerror or error}",
            "choose another location: ida-tui report RUN --output FILE",
        ) from None


def paths_as_json(paths: ReportPaths) -> dict[str, str]:
    """The paths as JSON-serializable values."""
    return {name: str(path) for name, path in paths._asdict().items()}
