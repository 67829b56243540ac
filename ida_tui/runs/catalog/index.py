"""The list of runs from a small SQLite file: only what has changed since the last time is read again.

The index is a copy. It can be deleted, and is built anew; where it cannot be used, the runs are read as if it
were not there. A row counts only while its run's file has the same size, times and number on the disk.
Nothing heavy is imported here unless a run has to be read.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ida_tui.runs.catalog.summary import RunSummary

NAME = ".runs.sqlite"
VERSION = 2
"""Raised with every change of `RunSummary`: an index of another version is built anew."""
NEVER_KEPT = ("unreadable",)
"""What may change without the file of the events changing."""
AT_ONCE = 500
"""Runs that are read before they are kept; whoever interrupts the first listing loses no more."""
WAIT_S = 2.0
"""How long another process may hold the index before the runs are listed without it."""
_KEPT = RunSummary._fields[1:]
_DAMAGED = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_MAKE = f"""
BEGIN;
DROP TABLE IF EXISTS runs;
CREATE TABLE runs (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, {", ".join(_KEPT)});
PRAGMA user_version = {VERSION};
COMMIT;
"""
_KEEP = f"INSERT OR REPLACE INTO runs VALUES (?, ?{', ?' * len(_KEPT)})"


class Listing(NamedTuple):
    """Runs, newest first."""

    runs: list[RunSummary]
    total: int
    """How many there are, also of those that were not asked for."""


class _Row(NamedTuple):
    """What is known of a run without looking at it."""

    stamp: str
    started_at: str
    experiment: str


def listed(output_dir: Path) -> list[RunSummary]:
    """Every run below a folder, newest first, as `summaries.summaries` has them. Never raises."""
    return listing(output_dir).runs


def listing(output_dir: Path, *, experiment: str | None = None, most: int | None = None) -> Listing:
    """The runs below a folder, newest first. Never raises.

    Args:
        output_dir: holds a folder for each experiment.
        experiment: only the runs of this one.
        most: only so many of the newest.
    """
    there = list(stamps(output_dir))
    index = _Index(output_dir / NAME)
    try:
        kept = index.rows()
        read = dict(_anew(output_dir, there, kept, index))
        index.forget(kept.keys() - {name for name, _ in there})
        found: list[tuple[tuple[str, str], str]] = []
        for name, _ in there:
            run = read.get(name) or kept[name]
            if experiment in (None, run.experiment):
                found.append((order(run.started_at, name.rpartition("/")[2]), name))
        found.sort(reverse=True)
        wanted = [name for _, name in found[:most]]
        rest = [name for name in wanted if name not in read]
        read |= index.summaries(output_dir, {name: kept[name].stamp for name in rest})
        runs = [read.get(name) or _read(output_dir / name) for name in wanted]
        return Listing([_alive(run) for run in runs], len(found))
    finally:
        index.close()


def order(started_at: str, run_id: str) -> tuple[str, str]:
    """What a list of runs is sorted by; the newest has the largest."""
    return (started_at or run_id, run_id)


def stamps(output_dir: Path) -> Iterator[tuple[str, str]]:
    """Every run below a folder as ``experiment/run-id``, with what changes when its events do.

    The stamp is empty where the events cannot be looked at.
    """
    for experiment, path in _folders(str(output_dir)):
        for run, folder in _folders(path):
            try:
                at = os.stat(f"{folder}/events.jsonl")  # noqa: PTH116 - thousands of them
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                yield f"{experiment}/{run}", ""
                continue
            stamp = f"{at.st_size} {at.st_mtime_ns} {at.st_ctime_ns} {at.st_ino}"
            yield f"{experiment}/{run}", stamp


def _folders(path: str) -> list[tuple[str, str]]:
    """Name and path of each folder in a folder."""
    try:
        with os.scandir(path) as entries:
            return sorted(
                (entry.name, entry.path)
                for entry in entries
                # `latest` is a link to a run that is listed under its own name.
                if entry.name[0] != "." and entry.is_dir(follow_symlinks=False)
            )
    except OSError:
        return []


def _anew(
    output_dir: Path, there: Iterable[tuple[str, str]], kept: dict[str, _Row], index: _Index
) -> Iterator[tuple[str, RunSummary]]:
    """The runs that are not in the index as they are now; they are, afterwards."""
    new: list[tuple[str, str, RunSummary]] = []
    try:
        for name, stamp in there:
            if stamp and name in kept and kept[name].stamp == stamp:
                continue
            run = _read(output_dir / name)
            yield name, run
            # The stamp is older than what was read: whatever was written since is read the next time.
            if stamp and run.status not in NEVER_KEPT:
                new.append((name, stamp, run))
            if len(new) == AT_ONCE:
                index.keep(new)
                new = []
    finally:
        index.keep(new)


def _read(path: Path) -> RunSummary:
    from ida_tui.runs.catalog.read_summary import summary
    from ida_tui.runs.directory import RunDirectory

    return summary(RunDirectory(path))


def _alive(run: RunSummary) -> RunSummary:
    """Whether a process trains a run can change without its file changing."""
    if run.status not in ("died", "live"):
        return run
    alive = False
    if os.path.lexists(f"{run.path}/owner.json"):
        from ida_tui.runs import owner
        from ida_tui.runs.directory import RunDirectory

        alive = owner.alive(RunDirectory(run.path))
    return run._replace(status="live" if alive else "died")


class _Index:
    """The SQLite file; where it cannot be used, it holds nothing and keeps nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: sqlite3.Connection | None = None

    def rows(self) -> dict[str, _Row]:
        """Every row, by the run's name."""
        for _ in range(2):
            try:
                self._file = sqlite3.connect(self._path, timeout=WAIT_S, isolation_level=None)
                if self._file.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                    self._file.executescript(_MAKE)
                found = self._file.execute("SELECT path, stamp, started_at, experiment FROM runs")
                return {row[0]: _Row._make(row[1:]) for row in found}
            except sqlite3.Error as error:
                if not self._lost(error):
                    break
        return {}

    def summaries(self, output_dir: Path, wanted: dict[str, str]) -> dict[str, RunSummary]:
        """The runs of these names whose rows still have these stamps."""
        found: dict[str, RunSummary] = {}
        if self._file is None:
            return found
        columns = f"SELECT path, stamp, {', '.join(_KEPT)} FROM runs"
        try:
            if len(wanted) > AT_ONCE:
                rows: Iterable[tuple[str, ...]] = self._file.execute(columns)
            else:
                one = f"{columns} WHERE path = ?"
                rows = [row for name in wanted for row in self._file.execute(one, (name,))]
            for name, stamp, *values in rows:
                if wanted.get(name) == stamp:
                    found[name] = RunSummary._make((output_dir / name, *values))
        except sqlite3.Error as error:
            self._lost(error)
        return found

    def keep(self, runs: Iterable[tuple[str, str, RunSummary]]) -> None:
        """Put runs with their stamps in."""
        # A name that is no Unicode has no place in SQLite; its run is read every time.
        self._write(_KEEP, [(name, stamp, *run[1:]) for name, stamp, run in runs if _unicode(name)])

    def forget(self, names: Iterable[str]) -> None:
        """Take the rows of these names out."""
        self._write("DELETE FROM runs WHERE path = ?", [(name,) for name in names])

    def _write(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        if self._file is None or not rows:
            return
        try:
            self._file.execute("BEGIN IMMEDIATE")
            self._file.executemany(statement, rows)
            self._file.execute("COMMIT")
        except sqlite3.Error:
            # A full or read-only disk, or another process that keeps at the same time: what is in it stays.
            with contextlib.suppress(sqlite3.Error):
                self._file.execute("ROLLBACK")

    def _lost(self, error: sqlite3.Error) -> bool:
        """The index cannot be used; returns whether it was damaged, and is worth another try."""
        self.close()
        damaged = getattr(error, "sqlite_errorcode", None) in _DAMAGED
        if damaged:
            # It holds nothing that is not elsewhere.
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        return damaged

    def close(self) -> None:
        """Nothing is kept afterwards."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
