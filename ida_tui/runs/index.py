"""The list of runs from a small SQLite file: only what has changed since the last time is read again.

The index is a copy. It can be deleted, and is built anew; where it cannot be used, the runs are read as if it
were not there.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.summaries import RunSummary, run_directories, summary

NAME = ".runs.sqlite"
VERSION = 1
"""Raised with every change of `RunSummary`: an index of another version is built anew."""
NEVER_KEPT = ("live", "died", "unreadable")
"""What may change without the file of the events changing."""


def listed(output_dir: Path) -> list[RunSummary]:
    """Every run below a folder, newest first, as `summaries.summaries` has them. Never raises."""
    try:
        with contextlib.closing(_opened(output_dir)) as index:
            found = list(_through(index, output_dir))
    except (sqlite3.Error, ValueError, KeyError, TypeError):
        found = [summary(RunDirectory(path)) for path in run_directories(output_dir)]
    return sorted(found, key=lambda run: (run.started_at or run.run_id, run.run_id), reverse=True)


def _opened(output_dir: Path) -> sqlite3.Connection:
    index = sqlite3.connect(output_dir / NAME, timeout=5)
    try:
        if index.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            index.executescript(
                "DROP TABLE IF EXISTS runs;"
                "CREATE TABLE runs (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, summary TEXT NOT NULL);"
                f"PRAGMA user_version = {VERSION};"
            )
    except sqlite3.OperationalError:
        index.close()
        raise
    except sqlite3.DatabaseError:
        index.close()
        # Not an index, or a torn one: it holds nothing that is not elsewhere.
        (output_dir / NAME).unlink(missing_ok=True)
        return _opened(output_dir)
    return index


def _through(index: sqlite3.Connection, output_dir: Path) -> Iterator[RunSummary]:
    kept = {path: (stamp, text) for path, stamp, text in index.execute("SELECT * FROM runs")}
    new: list[tuple[str, str, str]] = []
    seen: set[str] = set()
    for path in run_directories(output_dir):
        name, stamp = str(path), _stamp(path)
        seen.add(name)
        if name in kept and kept[name][0] == stamp:
            yield _decoded(path, kept[name][1])
            continue
        found = summary(RunDirectory(path))
        if found.status not in NEVER_KEPT:
            new.append((name, stamp, json.dumps({**asdict(found), "path": ""})))
        yield found
    with index:
        index.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", new)
        index.executemany("DELETE FROM runs WHERE path = ?", [(p,) for p in kept.keys() - seen])


def _stamp(path: Path) -> str:
    try:
        found = (path / "events.jsonl").stat()
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def _decoded(path: Path, text: str) -> RunSummary:
    values = json.loads(text)
    return RunSummary(**{f.name: values[f.name] for f in fields(RunSummary)} | {"path": path})
