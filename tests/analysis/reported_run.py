"""Finished run whose report is tested: its files, changes of them, and the text of its report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ida_tui.analysis.report.write import write_report
from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.runs.directory import RunDirectory

RUN = Path("outputs/quickstart/20260101-000000")
"""The run, in the working folder of a test."""


def edit_lines(change: Callable[[dict[str, Any]], object], name: str = "events.jsonl") -> None:
    """Apply a change to every line of one of the run's files."""
    path, lines = RUN / name, []
    for line in path.read_text().splitlines():
        body = json.loads(line)
        change(body)
        lines.append(json.dumps(body) + "\n")
    path.write_text("".join(lines))


def insert_events(*events: ev.Event) -> None:
    """Insert events before the last event."""
    path = RUN / "events.jsonl"
    *before, last = path.read_text().splitlines()
    seq = len(before)
    inserted = [
        codec.encode(ev.Record(seq + n, ev.current_timestamp(), event))
        for n, event in enumerate(events)
    ]
    path.write_text("\n".join([*before, *inserted, last]) + "\n")


def write_and_read(run: RunDirectory) -> tuple[str, str]:
    """Write the report; returns the text of the page and of the Markdown."""
    report = write_report(run)
    return report.html.read_text(), report.markdown.read_text()


def page_text(page: str) -> str:
    """The text of an HTML page, on one line."""
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())
