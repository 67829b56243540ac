"""Index of all runs in a small SQLite file, so that listing reads only the runs that changed.

The index is a cache: it can be deleted and is then rebuilt, and if it cannot be used, all runs are read from
their directories. A row is valid only while the run's event file has the same size, times and inode. Heavy
modules are imported only when a run has to be read.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ida_tui.runs.catalog.summary import RunSummary
from ida_tui.util.safe_files import read_bytes, replaced_file

FILE_NAME = ".runs.sqlite"
APPLICATION_ID = 0x49444154
"""Marks an SQLite file as this index; a database without it belongs to another program."""
VERSION = 5
"""Increase this with every change of `RunSummary`; an index of another version is rebuilt."""
UNSTORED_STATUSES = ("unreadable", "live")
"""Statuses that are not stored: they change soon, or without a change of the event file."""
WRITE_BATCH_SIZE = 500
"""Number of runs per write to the index; an interrupted first listing loses at most this many."""
MAX_BYTES = 256 << 20
"""Maximum size of the file; the rows of a million runs need less."""
MAX_QUERY_S = 5.0
"""Maximum seconds for reading the file."""
_SUMMARY_COLUMNS = RunSummary._fields[1:]
_SQLITE_MAGIC = b"SQLite format 3\0"
_TABLE = (
    f"CREATE TABLE runs (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, {', '.join(_SUMMARY_COLUMNS)})"
)
_OLDER_TABLE = b"CREATE TABLE runs (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, experiment, run_id"
"""Start of the table of an index without an application id."""
_SCHEMA_SCRIPT = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
{_TABLE};
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
    """The index, held in memory; if its file cannot be used, it has no rows.

    A file that this program did not write, such as another program's database or a link to one, is neither
    read nor replaced. No other process sees a part of a write: the whole file is replaced.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._is_replaceable = True

    def rows(self) -> dict[str, _IndexRow]:
        """All rows by run name; starts a new index if the file is missing, damaged or outdated."""
        try:
            data = read_bytes(self._path, MAX_BYTES)
        except FileNotFoundError:
            data = b""
        except OSError:
            data, self._is_replaceable = b"", False
        if data.startswith(_SQLITE_MAGIC) and _application_id(data) != APPLICATION_ID:
            data, self._is_replaceable = b"", False
        if data:
            with contextlib.suppress(sqlite3.Error, ValueError):
                return self._load(data)
        self._open_empty()
        return {}

    def _load(self, data: bytes) -> dict[str, _IndexRow]:
        """Open a copy of the file.

        Raises:
            ValueError: the file has another version, or contains more than the table of the index.
            sqlite3.Error: the file is damaged.
        """
        connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection = connection
        connection.execute("PRAGMA trusted_schema = OFF")
        # A hostile file can refer to the same page many times, so that a query has no end.
        deadline = time.monotonic() + MAX_QUERY_S
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
        connection.deserialize(data)
        schema = connection.execute("SELECT type, name, sql FROM sqlite_master LIMIT 3").fetchall()
        if schema != [("table", "runs", _TABLE), ("index", "sqlite_autoindex_runs_1", None)]:
            raise ValueError("not the table of this index")
        if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            raise ValueError("another version")
        rows = connection.execute(
            "SELECT path, stamp, started_at, experiment FROM runs LIMIT ?", (MAX_BYTES // 64,)
        )
        found = {row[0]: _IndexRow._make(row[1:]) for row in rows}
        connection.set_progress_handler(None, 0)
        return found

    def _open_empty(self) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.executescript(_SCHEMA_SCRIPT)

    def summaries(self, output_dir: Path, stamps_by_name: dict[str, str]) -> dict[str, RunSummary]:
        """Summaries of the runs whose rows have the given stamps.

        Args:
            output_dir: the directory of the runs.
            stamps_by_name: expected stamp of each run, by name.
        """
        summaries: dict[str, RunSummary] = {}
        if self._connection is None:
            return summaries
        query = f"SELECT path, stamp, {', '.join(_SUMMARY_COLUMNS)} FROM runs WHERE path = ?"
        with contextlib.suppress(sqlite3.Error):
            for requested in filter(_is_valid_unicode, stamps_by_name):
                for name, stamp, *values in self._connection.execute(query, (requested,)):
                    if stamps_by_name.get(name) == stamp:
                        summaries[name] = RunSummary._make((output_dir / name, *values))
        return summaries

    def store(self, runs: Iterable[tuple[str, str, RunSummary]]) -> None:
        """Store runs, given as name, stamp and summary."""
        # SQLite cannot store text that is not valid Unicode; such a run is read every time.
        rows = [(name, stamp, *run[1:]) for name, stamp, run in runs]
        self._write(
            _INSERT_STATEMENT,
            [row for row in rows if all(_is_valid_unicode(v) for v in row if isinstance(v, str))],
        )

    def delete(self, names: Iterable[str]) -> None:
        """Delete the rows of these runs."""
        self._write("DELETE FROM runs WHERE path = ?", [(name,) for name in names])

    def _write(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        if self._connection is None or not rows:
            return
        # If the disk is full or read-only, the file stays as it was.
        with contextlib.suppress(sqlite3.Error, OSError):
            self._connection.executemany(statement, rows)
            if self._is_replaceable:
                data = self._connection.serialize()
                with replaced_file(self._path) as file:
                    file.write(data)

    def close(self) -> None:
        """Close the index; later writes are ignored."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _application_id(data: bytes) -> int:
    """The application id in the header of an SQLite file; for an older index, the current one."""
    number = int.from_bytes(data[68:72], "big")
    is_older_index = number == 0 and 1 <= int.from_bytes(data[60:64], "big") <= 3
    return APPLICATION_ID if is_older_index and _OLDER_TABLE in data else number


def _is_valid_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
