"""`ida-tui runs` and its index, which may be out of date, damaged or missing."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.runs import owner
from ida_tui.runs.catalog import index
from ida_tui.runs.catalog.index import read_summaries
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.writer import EventLog
from tests.support.scripted_session import run_ended, run_started
from tests.support.synthetic_run import step_events

OUTPUTS = Path("outputs")


def write_run(name: str, experiment: str = "quickstart", status: Any = "done") -> RunDirectory:
    directory = RunDirectory(OUTPUTS / experiment / name)
    directory.logs.mkdir(parents=True)
    with EventLog(directory) as log:
        log.emit(run_started(directory.path))
        if status:
            log.emit(run_ended(status, "it ended"))
    return directory


def test_runs_are_listed_newest_first_with_their_status(ida_tui_here: Any) -> None:
    write_run("20260101-000000")
    write_run("20260102-000000", "oblit-1", "interrupted")
    write_run("20260103-000000", "oblit-1", "")
    lines = ida_tui_here("runs").out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["✗", "quickstart/20260103-000000", "died"],
        ["‖", "quickstart/20260102-000000", "interrupted"],
        ["✓", "quickstart/20260101-000000", "done"],
    ]
    assert ida_tui_here("runs", "oblit-1").code == 2
    assert len(ida_tui_here("runs", "quickstart").out.splitlines()) == 3
    newest = ida_tui_here("runs", "--json").events[0]
    assert newest["run_id"] == "20260103-000000"


def test_only_the_newest_runs_are_listed_without_all(ida_tui_here: Any) -> None:
    for number in range(35):
        write_run(f"20260101-0000{number:02}")
    lines = ida_tui_here("runs").out.splitlines()
    assert len(lines) == 31
    assert lines[-1] == "… and 5 older runs; list them with: ida-tui runs --all"
    assert len(ida_tui_here("runs", "--all").out.splitlines()) == 35


def test_an_empty_list_explains_how_to_start_a_run(ida_tui_here: Any) -> None:
    result = ida_tui_here("runs")
    assert (result.code, result.out) == (
        0,
        "No runs found. Start one with: ida-tui --run quickstart\n",
    )


def test_an_unchanged_run_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    write_run("20260101-000000")
    changing = write_run("20260102-000000")
    first = index.list_runs(OUTPUTS)
    read: list[str] = []
    read_run = index._read_run
    monkeypatch.setattr(
        index, "_read_run", lambda path: (read.append(path.name), read_run(path))[1]
    )
    assert index.list_runs(OUTPUTS) == first == read_summaries(OUTPUTS)
    assert read == []
    with EventLog(changing, first_seq=9) as log:
        log.emit(run_ended("failed", "it broke"))
    assert index.list_runs(OUTPUTS)[0].status == "failed"
    assert read == ["20260102-000000"]


@pytest.mark.parametrize("damage", ["torn", "other version", "gone", "locked"])
def test_an_unusable_index_does_not_change_the_list(damage: str) -> None:
    write_run("20260101-000000")
    expected = index.list_runs(OUTPUTS)
    file = OUTPUTS / index.FILE_NAME
    lock = None
    if damage == "torn":
        file.write_bytes(b"SQLite format 3\x00" + b"\x07" * 300)
    elif damage == "other version":
        with sqlite3.connect(file) as connection:
            connection.execute("PRAGMA user_version = 99")
    elif damage == "gone":
        file.unlink()
    else:
        lock = sqlite3.connect(file, isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
    assert index.list_runs(OUTPUTS) == expected == read_summaries(OUTPUTS)
    if lock is not None:
        lock.close()


def test_a_removed_run_is_no_longer_listed() -> None:
    import shutil

    shutil.rmtree(write_run("20260101-000000").path)
    write_run("20260102-000000")
    index.list_runs(OUTPUTS)
    shutil.rmtree(OUTPUTS / "quickstart/20260102-000000")
    assert index.list_runs(OUTPUTS) == []


def test_a_run_whose_event_file_is_replaced_by_one_of_the_same_size_is_read_again() -> None:
    directory = write_run("20260101-000000")
    index.list_runs(OUTPUTS)
    status = directory.events.stat()
    content = directory.events.read_bytes()
    replacement = directory.events.with_name("other")
    replacement.write_bytes(
        content.replace(b'"done"', b'"failed"').replace(b'"it ended"', b'"it end"')
    )
    os.utime(replacement, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert replacement.stat().st_size == status.st_size
    replacement.replace(directory.events)
    assert [run.status for run in index.list_runs(OUTPUTS)] == ["failed"]


def test_the_status_of_a_run_follows_its_process() -> None:
    directory = write_run("20260101-000000", status="")
    assert [run.status for run in index.list_runs(OUTPUTS)] == ["died"]
    with owner.owned_run(directory):
        assert [run.status for run in index.list_runs(OUTPUTS)] == ["live"]
    assert [run.status for run in index.list_runs(OUTPUTS)] == ["died"]


def test_an_index_that_another_process_locks_is_still_used(monkeypatch: pytest.MonkeyPatch) -> None:
    write_run("20260101-000000")
    index.list_runs(OUTPUTS)
    lock = sqlite3.connect(OUTPUTS / index.FILE_NAME, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(index, "_read_run", lambda path: pytest.fail("read again"))

    assert index.list_runs(OUTPUTS) == read_summaries(OUTPUTS)
    lock.close()


OTHER_TABLE = "CREATE TABLE runs (run_uuid TEXT PRIMARY KEY, name TEXT)"
ENDLESS_VIEW = (
    "CREATE VIEW runs AS WITH RECURSIVE n(path) AS (SELECT 1 UNION ALL SELECT path + 1 FROM n)"
    " SELECT path, path AS stamp, path AS started_at, path AS experiment FROM n"
)


@pytest.mark.parametrize("kind", ["link", "hard link", "file"])
@pytest.mark.parametrize("schema", [OTHER_TABLE, ENDLESS_VIEW])
@pytest.mark.parametrize("version", [0, index.VERSION])
def test_a_database_of_another_program_is_left_alone(kind: str, schema: str, version: int) -> None:
    write_run("20260101-000000")
    database = Path("mlflow.db")
    with sqlite3.connect(database) as connection:
        connection.execute(schema)
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    content = database.read_bytes()
    file = OUTPUTS / index.FILE_NAME
    if kind == "link":
        file.symlink_to(database.absolute())
    elif kind == "hard link":
        os.link(database, file)
    else:
        file.write_bytes(content)

    assert index.list_runs(OUTPUTS) == read_summaries(OUTPUTS)

    assert database.read_bytes() == file.read_bytes() == content


@pytest.mark.parametrize("statement", ["trigger", "view", "column"])
def test_an_index_with_more_than_its_table_is_replaced(statement: str) -> None:
    write_run("20260101-000000")
    expected = index.list_runs(OUTPUTS)
    file = OUTPUTS / index.FILE_NAME
    with sqlite3.connect(file) as connection:
        connection.execute(
            {
                "trigger": "CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM runs; END",
                "view": ENDLESS_VIEW.replace("VIEW runs", "VIEW others"),
                "column": "ALTER TABLE runs ADD COLUMN extra",
            }[statement]
        )
    connection.close()

    assert index.list_runs(OUTPUTS) == expected
    with sqlite3.connect(file) as connection:
        names = connection.execute("SELECT name FROM sqlite_master").fetchall()
    connection.close()
    assert names == [("runs",), ("sqlite_autoindex_runs_1",)]


@pytest.mark.parametrize("target", ["pipe", "device", "broken link"])
def test_an_index_that_is_no_file_is_left_alone(target: str) -> None:
    write_run("20260101-000000")
    file = OUTPUTS / index.FILE_NAME
    if target == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero" if target == "device" else Path("new.db").absolute())

    assert index.list_runs(OUTPUTS) == read_summaries(OUTPUTS)
    assert not Path("new.db").exists()


def test_an_index_of_an_older_version_is_replaced() -> None:
    write_run("20260101-000000")
    file = OUTPUTS / index.FILE_NAME
    with sqlite3.connect(file) as connection:
        connection.execute(index._TABLE)
        connection.execute("PRAGMA user_version = 3")
    connection.close()

    assert index.list_runs(OUTPUTS) == read_summaries(OUTPUTS)
    assert index._application_id(file.read_bytes()) == index.APPLICATION_ID


def test_half_a_surrogate_pair_in_a_run_does_not_stop_the_list(ida_tui_here: Any) -> None:
    write_run("20260101-000000")
    broken = write_run("20260102-000000")
    text = broken.events.read_text()
    broken.events.write_text(text.replace('"model": "embedded"', r'"model": "\ud83d"'))

    for _ in range(2):
        result = ida_tui_here("runs")
        assert result.code == 0
        assert len([line for line in result.out.splitlines() if "quickstart/" in line]) == 2


def test_a_pipe_in_place_of_events_does_not_stop_the_list(ida_tui_here: Any) -> None:
    write_run("20260101-000000")
    Path("outputs/x/y").mkdir(parents=True)
    os.mkfifo("outputs/x/y/events.jsonl")

    out = ida_tui_here("runs").out
    assert "quickstart/20260101-000000" in out
    assert "it is not a regular file" in out


def test_listing_indexed_runs_imports_no_heavy_library() -> None:
    write_run("20260101-000000")
    index.list_runs(OUTPUTS)
    code = (
        "import sys; from ida_tui.cli.main import main; main(['runs']);"
        "print({'pydantic', 'psutil', 'ida_tui.events.types', 'rich'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[0].startswith("✓ quickstart/20260101-000000")
    assert result.stdout.splitlines()[-1] == "set()"


def test_a_run_of_a_newer_version_is_listed_as_unreadable() -> None:
    directory = write_run("20260101-000000")
    text = directory.events.read_text()
    directory.events.write_text(
        text.replace(f'{{"v": {codec.VERSION},', f'{{"v": {codec.VERSION + 1},')
    )
    (run,) = index.list_runs(OUTPUTS)
    assert run.status == "unreadable"
    assert "written by a newer ida-tui" in run.problem
    assert "update ida-tui" in run.problem


def test_the_last_step_of_a_dead_run_is_found_before_a_long_unfinished_step() -> None:
    directory = write_run("20260101-000000", status="")
    with open(directory.events, "a", encoding="utf-8") as events:
        for seq, event in enumerate(step_events(1, 9), start=1):
            events.write(codec.encode(ev.Record(seq, "t", event)) + "\n")
        text = ev.TextGenerated(2, ("x" * 100_000,))
        for seq in range(40):
            events.write(codec.encode(ev.Record(100 + seq, "t", text)) + "\n")
        events.write('{"v": 1, "seq": 999, "ti')
    (run,) = index.list_runs(OUTPUTS)
    assert (run.status, run.steps_done) == ("died", 1)


def test_the_duration_of_an_older_run_is_shown_without_its_pauses() -> None:
    directory = write_run("20260101-000000", status="")
    events: tuple[ev.Event, ...] = (
        ev.RunPaused(1, "paused", by="person"),
        ev.RunResumed(1),
        replace(run_ended("done", "it ended"), seconds=100.0),
    )
    with open(directory.events, "w", encoding="utf-8") as file:
        for number, event in enumerate((run_started(directory.path), *events)):
            record = ev.Record(number, f"2026-01-01T00:0{number}:00.000Z", event)
            file.write(codec.encode(record).replace(', "paused_s": null', "") + "\n")

    assert [run.seconds for run in read_summaries(OUTPUTS)] == [40.0]
