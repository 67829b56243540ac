"""Runs on another machine: their address, the connection, and the copy that is kept up to date.

A program `ssh` on the PATH stands in for the network: it runs the command on this machine.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from ida_tui.cli.main import main
from ida_tui.errors import IdaError, UsageError
from ida_tui.events import types as ev
from ida_tui.runs import control, owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import read_events
from ida_tui.runs.log.writer import EventLog
from ida_tui.runs.remote import mirror as mirror_module
from ida_tui.runs.remote.address import RemoteAddress, is_remote, parse_address
from ida_tui.runs.remote.connection import Connection, ConnectionLost
from ida_tui.runs.remote.mirror import Mirror, open_mirror
from tests.support.patience import PATIENCE_S
from tests.support.scripted_session import run_ended, run_started

SSH = """\
#!/bin/sh
printf '%s\\n' "$@" >> {folder}/arguments
echo $$ >> {folder}/pids
echo "Welcome to the other machine."
{before}
for last; do :; done
exec sh -c "$last"
"""


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a program `ssh` that is found first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    write_ssh(folder)
    return folder


def write_ssh(folder: Path, before: str = "") -> None:
    """Make the stand-in, with further lines of shell that run first."""
    (folder / "ssh").write_text(SSH.format(folder=folder, before=before))
    (folder / "ssh").chmod(0o700)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run that this process trains, in a folder with a space and a quote in its name."""
    directory = RunDirectory(tmp_path / "it's a folder" / "run-1")
    directory.logs.mkdir(parents=True)
    directory.config.write_text("name: quickstart\n")
    directory.manifest.write_text("{}")
    owner.claim(directory)
    return directory


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once the condition is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def address_of(run: RunDirectory) -> RemoteAddress:
    return RemoteAddress("gpu-box", str(run.path))


def copy_of(
    run: RunDirectory, messages: queue.SimpleQueue[str] | None = None
) -> AbstractContextManager[Mirror]:
    report: Callable[[str], object] = messages.put if messages is not None else print
    return open_mirror(address_of(run), may_prompt=False, report=report)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://box/a/b", RemoteAddress("box", "/a/b")),
        ("SSH://me@box.example:2222/a", RemoteAddress("box.example", "/a", "me", 2222)),
        ("ssh://[::1]:22/a", RemoteAddress("::1", "/a", "", 22)),
        ("ssh://box/~/a%20b", RemoteAddress("box", "~/a b")),
        ("ssh://box/it's%3f", RemoteAddress("box", "/it's?")),
    ],
)
def test_an_address_names_a_machine_and_a_path(text: str, address: RemoteAddress) -> None:
    assert is_remote(text)
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "ssh://", "ssh://box", "ssh://box/", "ssh:///a", "ssh://-oProxyCommand=x/a", "ssh://-x@box/a",
        "ssh://a b/a", "ssh://box;ls/a", "ssh://$(ls)/a", "ssh://box\n/a", "ssh://box:0/a",
        "ssh://box:-1/a", "ssh://box:99999/a", "ssh://me:pw@box/a", "ssh://me@you@box/a",
        "ssh://box/a%0Ab", "ssh://box/a%1b", "ssh://box/a?b", "ssh://box/a#b", "ssh://[::1/a",
    ],
)  # fmt: skip
def test_an_address_that_could_be_an_option_or_a_command_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)


def test_the_host_follows_all_options_and_ssh_never_asks(
    bin_folder: Path, run: RunDirectory
) -> None:
    with EventLog(run) as log:
        log.emit(run_started(run.path))
    with Connection(RemoteAddress("box", str(run.path), "me", 2222)):
        pass

    arguments = (bin_folder / "arguments").read_text().splitlines()
    assert arguments[-3:] == ["--", "box", "exec sh"]
    assert arguments[arguments.index("-l") + 1] == "me"
    assert arguments[arguments.index("-p") + 1] == "2222"
    assert "BatchMode=yes" in arguments


@pytest.mark.usefixtures("bin_folder")
def test_a_live_run_is_copied_while_it_grows_and_until_it_ends(run: RunDirectory) -> None:
    with EventLog(run) as log:
        log.emit(run_started(run.path))
        with copy_of(run) as mirror:
            copy = mirror.directory
            assert copy.events.read_bytes() == run.events.read_bytes()
            assert copy.config.read_text() == "name: quickstart\n"
            assert copy.path.stat().st_mode & 0o077 == 0
            wait_until(lambda: owner.is_alive(copy))

            log.emit(ev.Noticed("info", "test", "später"))
            run.completions.write_text('{"step": 1}\n{"step"')
            wait_until(lambda: copy.events.read_bytes() == run.events.read_bytes())
            wait_until(lambda: copy.completions.is_file())
            assert copy.completions.read_text() == '{"step": 1}\n'

            log.emit(run_ended("done", "Training complete"))
            owner.release(run)
            wait_until(lambda: not owner.is_alive(copy))
            assert len(list(read_events(copy.events))) == 3
    assert not copy.path.exists()


@pytest.mark.usefixtures("bin_folder")
def test_requests_are_passed_on(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    with EventLog(run) as log:
        log.emit(run_started(run.path))
    with copy_of(run) as mirror:
        control.send_request(mirror.directory, "pause")
        wait_until(run.control_request.exists)
        assert control.pop_request(run) == "pause"

    assert main(["attach", str(address_of(run)), "--stop"]) == 0
    assert control.pop_request(run) == "stop"
    assert "Stop requested" in capsys.readouterr().out

    owner.release(run)
    assert main(["attach", str(address_of(run)), "--stop"]) == 2
    assert "no process is training ssh://gpu-box/" in capsys.readouterr().err


@pytest.mark.usefixtures("bin_folder")
def test_a_run_that_cannot_be_written_to_can_only_be_watched(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventLog(run) as log:
        log.emit(run_started(run.path))
    monkeypatch.setattr(Connection, "ask", lambda *_: False)
    messages: queue.SimpleQueue[str] = queue.SimpleQueue()
    with copy_of(run, messages) as mirror:
        control.send_request(mirror.directory, "pause")
        assert "can only be watched" in messages.get(timeout=PATIENCE_S)


def test_a_lost_connection_continues_after_the_last_line(
    bin_folder: Path, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "RECONNECT_DELAYS_S", (0.0,))
    messages: queue.SimpleQueue[str] = queue.SimpleQueue()
    with EventLog(run) as log:
        log.emit(run_started(run.path))
        with copy_of(run, messages) as mirror:
            write_ssh(bin_folder, "echo 'Connection refused' >&2; exit 255")
            os.kill(int((bin_folder / "pids").read_text()), signal.SIGKILL)
            assert "gpu-box is lost" in messages.get(timeout=PATIENCE_S)
            assert "(Connection refused); trying again" in messages.get(timeout=PATIENCE_S)
            log.emit(ev.Noticed("info", "test", "meanwhile"))
            assert owner.is_alive(mirror.directory)  # it is not known to have ended

            write_ssh(bin_folder)
            while "connected to gpu-box again" not in messages.get(timeout=PATIENCE_S):
                pass
            copy = mirror.directory.events
            wait_until(lambda: copy.read_bytes() == run.events.read_bytes())


def test_an_error_of_ssh_is_shown_without_control_characters(
    bin_folder: Path, run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ssh(bin_folder, "printf 'Permission\\033[31m denied\\n' >&2; exit 255")

    assert main(["attach", str(address_of(run)), "--lines"]) == 1
    shown = capsys.readouterr().err
    assert "could not connect to gpu-box: Permission?[31m denied" in shown
    assert "ssh gpu-box true" in shown


@pytest.mark.usefixtures("bin_folder")
@pytest.mark.parametrize("name", ["missing", "empty", "linked"])
def test_a_folder_that_is_not_a_run_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "events.jsonl").symlink_to("/etc/passwd")

    with pytest.raises(UsageError, match="no folder" if name == "missing" else "is not a run"):
        Connection(RemoteAddress("box", str(tmp_path / name)))


@pytest.mark.usefixtures("bin_folder")
def test_latest_stays_the_run_that_it_was(run: RunDirectory) -> None:
    with EventLog(run) as log:
        log.emit(run_started(run.path))
    (run.path.parent / "latest").symlink_to(run.run_id)

    with Connection(RemoteAddress("box", str(run.path.parent))) as connection:
        assert connection.address.path == str(run.path)


@pytest.mark.parametrize(
    "reply",
    ["part 5\n", "state 2 5\n", "x" * 1000, "state 1 5\npart 101\n", "state 1 5\npart 5\nab", ""],
)
def test_replies_of_a_stranger_are_checked(reply: str, bin_folder: Path, run: RunDirectory) -> None:
    greet = (
        r"mark=$(sed -un 's/.*\(ida-tui-[0-9a-f]*\) .*/\1/p; /^say ready/q'); echo $mark ready /a"
    )
    write_ssh(bin_folder, f"{greet}\nread request\nprintf '%s' '{reply}'\nexit 0")
    with Connection(address_of(run)) as connection, pytest.raises(ConnectionLost):
        connection.poll(0, 100, 0, 0)


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "MAX_LINE_BYTES", 2 * mirror_module.CHUNK_BYTES)
    file = mirror_module._CopiedFile(tmp_path / "events.jsonl")

    with pytest.raises(IdaError, match="a line of events"):
        _ = [file.append(b"x" * file.limit) for _ in range(9)]
    assert not (tmp_path / "events.jsonl").exists()


@pytest.mark.usefixtures("bin_folder")
def test_lines_and_json_are_those_of_the_run(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    with EventLog(run) as log:
        log.emit(run_started(run.path))
        log.emit(run_ended("interrupted", "Stopped", code=130))
    owner.release(run)

    assert main(["attach", str(address_of(run)), "--json"]) == 130
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["RunStarted", "RunEnded"]
