"""Index of all runs in a small SQLite file, so that listing reads only the runs that changed.

The index is a cache: it can be deleted and is then rebuilt, and if it cannot be used, all runs are read from
their directories. A row is valid only while the run's event file has the same size, times and inode. Heavy
modules are imported only when a run has to be read.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ida_tui.runs.catalog.summary import RunSummary

FILE_NAME = ".runs.sqlite"
VERSION = 3
"""Increase this with every change of `RunSummary`; an index of another version is rebuilt."""
UNSTORED_STATUSES = ("unreadable",)
"""Statuses that are not stored, because they can change without a change of the event file."""
WRITE_BATCH_SIZE = 500
"""Number of runs per write to the index; an interrupted first listing loses at most this many."""
BUSY_TIMEOUT_S = 2.0
"""Maximum seconds to wait for another process that uses the index."""
_SUMMARY_COLUMNS = RunSummary._fields[1:]
_DAMAGE_ERROR_CODES = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SCHEMA_SCRIPT = f"""
BEGIN;
DROP TABLE IF EXISTS runs;
CREATE TABLE runs (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, {", ".join(_SUMMARY_COLUMNS)});
PRAGMA user_version = {VERSION};
COMMIT;
"""
_INSERT_STATEMENT = f"INSERT OR REPLACE INTO runs VALUES (?, ?{', ?' * len(_SUMMARY_COLUMNS)})"


class RunListing(NamedTuple):
    """Runs of an output directory, newest first."""

    runs: list[RunSummary]
    total: int
    """Number of matching runs, including those beyond the requested maximum."""


class _IndexRow(NamedTuple):
    """Index data of a run that is needed to validate and sort it."""

    stamp: str
    started_at: str
    experiment: str


def list_runs(output_dir: Path) -> list[RunSummary]:
    """All runs in an output directory, newest first. Never raises."""
    return list_matching_runs(output_dir).runs


def list_matching_runs(
    output_dir: Path, *, experiment: str | None = None, limit: int | None = None
) -> RunListing:
    """The runs in an output directory, newest first. Never raises.

    Args:
        output_dir: contains a directory for each experiment.
        experiment: only runs of this experiment.
        limit: maximum number of runs.
    """
    stamped = list(iterate_stamps(output_dir))
    index = _Index(output_dir / FILE_NAME)
    try:
        rows = index.rows()
        read = dict(_read_changed_runs(output_dir, stamped, rows, index))
        index.delete(rows.keys() - {name for name, _ in stamped})
        matching: list[tuple[tuple[str, str], str]] = []
        for name, _ in stamped:
            run = read.get(name) or rows[name]
            if experiment in (None, run.experiment):
                matching.append((sort_key(run.started_at, name.rpartition("/")[2]), name))
        matching.sort(reverse=True)
        selected = [name for _, name in matching[:limit]]
        unread = [name for name in selected if name not in read]
        read |= index.summaries(output_dir, {name: rows[name].stamp for name in unread})
        runs = [read.get(name) or _read_run(output_dir / name) for name in selected]
        return RunListing([_with_current_status(run) for run in runs], len(matching))
    finally:
        index.close()


def read_summaries(output_dir: Path) -> list[RunSummary]:
    """All runs in an output directory, newest first, read without the index. Never raises."""
    from ida_tui.runs.catalog.read_summary import read_summary
    from ida_tui.runs.directory import RunDirectory

    runs = [read_summary(RunDirectory(output_dir / name)) for name, _ in iterate_stamps(output_dir)]
    return sorted(runs, key=lambda run: sort_key(run.started_at, run.run_id), reverse=True)


def sort_key(started_at: str, run_id: str) -> tuple[str, str]:
    """Sort key for lists of runs; the newest run has the largest key."""
    return (started_at or run_id, run_id)


def iterate_stamps(output_dir: Path) -> Iterator[tuple[str, str]]:
    """Every run as `experiment/run-id` with a stamp that changes when its event file changes.

    The stamp is empty if the status of the event file cannot be read.
    """
    for experiment, path in _subdirectories(str(output_dir)):
        for run, folder in _subdirectories(path):
            try:
                status = os.stat(f"{folder}/events.jsonl")  # noqa: PTH116 - fast for thousands of runs
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                yield f"{experiment}/{run}", ""
                continue
            stamp = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
            yield f"{experiment}/{run}", stamp


def _subdirectories(path: str) -> list[tuple[str, str]]:
    """Name and path of each subdirectory, sorted by name."""
    try:
        with os.scandir(path) as entries:
            return sorted(
                (entry.name, entry.path)
                for entry in entries
                # `latest` is a link to a run that is listed under its run id.
                if entry.name[0] != "." and entry.is_dir(follow_symlinks=False)
            )
    except OSError:
        return []


def _read_changed_runs(
    output_dir: Path, stamped: Iterable[tuple[str, str]], rows: dict[str, _IndexRow], index: _Index
) -> Iterator[tuple[str, RunSummary]]:
    """Read the runs whose index rows are missing or outdated, and store them in the index."""
    new: list[tuple[str, str, RunSummary]] = []
    try:
        for name, stamp in stamped:
            if stamp and name in rows and rows[name].stamp == stamp:
                continue
            run = _read_run(output_dir / name)
            yield name, run
            # The stamp was taken before reading, so a later change makes the row outdated.
            if stamp and run.status not in UNSTORED_STATUSES:
                new.append((name, stamp, run))
            if len(new) == WRITE_BATCH_SIZE:
                index.store(new)
                new = []
    finally:
        index.store(new)


def _read_run(path: Path) -> RunSummary:
    from ida_tui.runs.catalog.read_summary import read_summary
    from ida_tui.runs.directory import RunDirectory

    return read_summary(RunDirectory(path))


def _with_current_status(run: RunSummary) -> RunSummary:
    """The summary with an up-to-date status; whether a process trains a run can change at any time."""
    if run.status not in ("died", "live"):
        return run
    alive = False
    if os.path.lexists(f"{run.path}/owner.json"):
        from ida_tui.runs import owner
        from ida_tui.runs.directory import RunDirectory

        alive = owner.is_alive(RunDirectory(run.path))
    return run._replace(status="live" if alive else "died")


class _Index:
    """The SQLite file; if it cannot be used, it returns no rows and ignores writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def rows(self) -> dict[str, _IndexRow]:
        """All rows by run name; rebuilds a damaged or outdated index."""
        for _ in range(2):
            try:
                self._connection = sqlite3.connect(
                    self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None
                )
                if self._connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                    self._connection.executescript(_SCHEMA_SCRIPT)
                rows = self._connection.execute(
                    "SELECT path, stamp, started_at, experiment FROM runs"
                )
                return {row[0]: _IndexRow._make(row[1:]) for row in rows}
            except sqlite3.Error as error:
                if not self._handle_error(error):
                    break
        return {}

    def summaries(self, output_dir: Path, stamps_by_name: dict[str, str]) -> dict[str, RunSummary]:
        """Summaries of the runs whose rows have the given stamps.

        Args:
            output_dir: the directory of the runs.
            stamps_by_name: expected stamp of each run, by name.
        """
        summaries: dict[str, RunSummary] = {}
        if self._connection is None:
            return summaries
        columns = f"SELECT path, stamp, {', '.join(_SUMMARY_COLUMNS)} FROM runs"
        try:
            if len(stamps_by_name) > WRITE_BATCH_SIZE:
                rows: Iterable[tuple[str, ...]] = self._connection.execute(columns)
            else:
                query = f"{columns} WHERE path = ?"
                rows = [
                    row
                    for name in stamps_by_name
                    for row in self._connection.execute(query, (name,))
                ]
            for name, stamp, *values in rows:
                if stamps_by_name.get(name) == stamp:
                    summaries[name] = RunSummary._make((output_dir / name, *values))
        except sqlite3.Error as error:
            self._handle_error(error)
        return summaries

    def store(self, runs: Iterable[tuple[str, str, RunSummary]]) -> None:
        """Store runs, given as name, stamp and summary."""
        # SQLite cannot store a name that is not valid Unicode; such a run is read every time.
        self._write(
            _INSERT_STATEMENT,
            [(name, stamp, *run[1:]) for name, stamp, run in runs if _is_valid_unicode(name)],
        )

    def delete(self, names: Iterable[str]) -> None:
        """Delete the rows of these runs."""
        self._write("DELETE FROM runs WHERE path = ?", [(name,) for name in names])

    def _write(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        if self._connection is None or not rows:
            return
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(statement, rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            # The disk is full or read-only, or another process is writing: keep the existing rows.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _handle_error(self, error: sqlite3.Error) -> bool:
        """Handle an error: close the index, delete it if it is damaged, and return whether it was."""
        self.close()
        damaged = getattr(error, "sqlite_errorcode", None) in _DAMAGE_ERROR_CODES
        if damaged:
            # Safe to delete: the index is only a cache.
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        return damaged

    def close(self) -> None:
        """Close the index; later writes are ignored."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _is_valid_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
