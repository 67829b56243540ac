"""Readers of run directories: followed logs, owners, run lists and completions."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ida_tui.errors import UsageError
from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.events.history import PackedHistory
from ida_tui.events.state import RunState
from ida_tui.runs import control, owner, resume
from ida_tui.runs.catalog.index import read_summaries
from ida_tui.runs.catalog.lookup import find_run
from ida_tui.runs.catalog.read_summary import read_summary
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import Follower
from ida_tui.runs.log.replay import read_final_state
from ida_tui.runs.run import Run
from ida_tui.runs.store import checkpoints, manifest
from ida_tui.runs.store.completions import CompletionStore, read_completions
from tests.support.scripted_session import run_ended, run_started
from tests.support.synthetic_run import run_events, step_events, write


def line(seq: int, event: ev.Event) -> bytes:
    return codec.encode(ev.Record(seq, f"2026-01-31T12:00:{seq:02}.000Z", event)).encode() + b"\n"


def append(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.write(data)


# --- following ----------------------------------------------------------------------------------


def test_a_follower_returns_each_record_once_and_in_order() -> None:
    path = Path("events.jsonl")
    follower = Follower(path)
    assert follower.read() == []

    append(path, line(0, ev.PhaseChanged(1, "generate")) + line(1, ev.PhaseChanged(1, "judge")))
    assert [record.seq for record in follower.read()] == [0, 1]
    assert follower.read() == []
    append(path, line(2, ev.PhaseChanged(1, "update")))
    assert [record.seq for record in follower.read()] == [2]


def test_a_follower_waits_for_incomplete_lines_and_characters() -> None:
    path, data = Path("events.jsonl"), line(0, ev.Noticed("info", "judge", "três – déjà"))
    split = data.index("ê".encode()) + 1
    follower = Follower(path)

    append(path, data[:split])
    assert follower.read() == []
    append(path, data[split:])
    assert [record.event for record in follower.read()] == [
        ev.Noticed("info", "judge", "três – déjà")
    ]


def test_a_follower_reads_no_more_records_than_requested() -> None:
    path = Path("events.jsonl")
    append(path, b"".join(line(n, ev.PhaseChanged(n, "judge")) for n in range(5)))
    follower = Follower(path)

    assert [len(follower.read(2)) for _ in range(4)] == [2, 2, 1, 0]


def test_a_follower_reports_an_invalid_line_and_continues_after_it() -> None:
    path = Path("events.jsonl")
    append(path, b"no event\n" + line(1, ev.PhaseChanged(1, "judge")))
    follower = Follower(path)

    with pytest.raises(codec.EventError, match=r"events\.jsonl: byte 0"):
        follower.read()
    assert [record.seq for record in follower.read()] == [1]


# --- owners -------------------------------------------------------------------------------------


@pytest.fixture
def directory() -> RunDirectory:
    """An empty run directory."""
    Path("run").mkdir()
    return RunDirectory(Path("run"))


def test_a_run_is_alive_while_its_process_runs(directory: RunDirectory) -> None:
    code = (
        "import sys; from pathlib import Path; from ida_tui.runs import owner;"
        "from ida_tui.runs.directory import RunDirectory;"
        "owner.claim(RunDirectory(Path('run'))); print('claimed', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"claimed\n"
    assert owner.is_alive(directory)

    process.kill()
    process.communicate()
    assert not owner.is_alive(directory)


def test_a_run_is_not_alive_after_its_process_released_it(directory: RunDirectory) -> None:
    with owner.owned_run(directory):
        assert owner.is_alive(directory)
    assert not owner.is_alive(directory)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "started": 1, "host": 1}']
)
def test_an_unreadable_owner_file_counts_as_no_owner(text: str, directory: RunDirectory) -> None:
    directory.owner.write_text(text)

    assert not owner.is_alive(directory)


def test_a_reused_process_id_is_not_the_owner(directory: RunDirectory) -> None:
    owner.claim(directory)
    owner_data = json.loads(directory.owner.read_text())
    directory.owner.write_text(json.dumps(owner_data | {"started": owner_data["started"] - 500}))

    assert not owner.is_alive(directory)


def test_a_run_on_another_machine_is_alive_while_it_writes(directory: RunDirectory) -> None:
    directory.events.write_text("")
    directory.owner.write_text(json.dumps({"pid": 1, "started": 0, "host": "another-machine"}))
    assert owner.is_alive(directory)

    os.utime(directory.events, (0, 0))
    assert not owner.is_alive(directory)


# --- run lists --------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_with_their_status() -> None:
    write(Path("outputs/quickstart/20260101-000000/events.jsonl"), steps=3)
    newer = Path("outputs/dev-mps/20260131-120000/events.jsonl")
    append(newer, line(1, run_started(newer.parent, 10)) + line(2, run_ended("failed", "no")))
    Path("outputs/dev-mps/latest").symlink_to("20260131-120000")

    summaries = read_summaries(Path("outputs"))

    assert [(run.path.parent.name, run.status) for run in summaries] == [
        ("dev-mps", "failed"),
        ("quickstart", "done"),
    ]
    assert summaries[1].model == "embedded"
    assert summaries[0].steps == 10


def test_a_run_without_an_end_event_is_live_or_died() -> None:
    run = Path("outputs/quickstart/20260101-000000")
    events = list(run_events(run, 5))[:-30]
    append(run / "events.jsonl", b"".join(line(n % 60, event) for n, event in enumerate(events)))
    assert read_summaries(Path("outputs"))[0].status == "died"
    assert read_summaries(Path("outputs"))[0].steps_done == 3

    with owner.owned_run(RunDirectory(run)):
        assert read_summaries(Path("outputs"))[0].status == "live"


def test_a_run_that_cannot_be_read_is_listed_with_the_reason() -> None:
    append(Path("outputs/quickstart/20260101-000000/events.jsonl"), b"")

    (summary,) = read_summaries(Path("outputs"))

    assert summary.status == "unreadable"
    assert summary.problem == "events.jsonl contains no events"


def test_a_missing_folder_has_no_runs() -> None:
    assert read_summaries(Path("nowhere")) == []


def test_a_run_resumed_after_its_end_has_not_ended() -> None:
    run = Path("outputs/quickstart/20260101-000000")
    append(
        run / "events.jsonl",
        line(0, run_started(run))
        + line(1, run_ended("interrupted", "Stopped"))
        + line(2, ev.RunResumed(0)),
    )

    assert read_summaries(Path("outputs"))[0].status == "died"


# --- completions --------------------------------------------------------------------------------


def test_the_completions_of_any_step_can_be_loaded() -> None:
    write(Path("run/events.jsonl"), steps=4)
    store = CompletionStore(Path("run/completions.jsonl"))
    store.refresh()

    assert store.steps == (1, 2, 3, 4)
    assert [c.finished.index for c in store.load(3)] == list(range(8))
    assert all(c.scored is not None and c.scored.step == 3 for c in store.load(3))
    assert store.load(9) == ()


def test_the_store_reads_appended_lines_and_waits_for_incomplete_ones() -> None:
    write(Path("whole/events.jsonl"), steps=2)
    data = Path("whole/completions.jsonl").read_bytes()
    path = Path("growing.jsonl")
    store = CompletionStore(path)
    store.refresh()
    assert store.steps == ()

    split = len(data) - 40
    append(path, data[:split])
    store.refresh()
    assert len(store.load(2)) == 7
    append(path, data[split:])
    store.refresh()
    assert len(store.load(2)) == 8


def test_the_later_completions_of_a_repeated_step_count() -> None:
    write(Path("run/events.jsonl"), steps=3)
    path = Path("run/completions.jsonl")
    repeated_lines = path.read_bytes().splitlines(keepends=True)[8:16]
    append(path, b"".join(repeated_lines).replace(b"First look", b"Again, look"))
    store = CompletionStore(path)
    store.refresh()

    assert [c.finished.text[:11] for c in store.load(2)] == ["Again, look"] * 8
    assert [c.finished.text[:10] for c in store.load(3)] == ["First look"] * 8


def test_a_search_finds_the_nearest_step_in_its_direction() -> None:
    write(Path("run/events.jsonl"), steps=6)
    path = Path("run/completions.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    for index in (0, 35, 44):  # in the steps 1, 5 and 6
        lines[index] = lines[index].replace(b"with ps", b"with TASKLIST")
    path.write_bytes(b"".join(lines))
    store = CompletionStore(path)
    store.refresh()

    assert store.search(["tasklist", "kill"], 2, 1) == 5
    assert store.search(["tasklist"], 5, 1) == 6
    assert store.search(["tasklist"], 5, -1) == 1
    assert store.search(["tasklist"], 1, -1) is None
    assert store.search(["nowhere"], 1, 1) is None


# --- series -------------------------------------------------------------------------------------


def test_two_extensions_of_a_series_are_independent() -> None:
    base = PackedHistory([1, 2])
    left, right = base.with_items([3]), base.with_items([4])

    assert (list(base), list(left), list(right)) == ([1, 2], [1, 2, 3], [1, 2, 4])
    assert left[-1] == 3
    assert left[1:] == (2, 3)
    assert base == (1, 2) != left
    with pytest.raises(IndexError):
        base[2]


def test_a_long_series_returns_packed_items_unchanged() -> None:
    steps = [step for n in range(1, 1301) for step in step_events(n, 1300) if is_step(step)]
    series = PackedHistory(steps, columns=("step", "kl"))

    assert list(series) == steps == series
    assert (series[0], series[-1], series[255:257]) == (steps[0], steps[-1], tuple(steps[255:257]))
    assert list(series.column("step")) == list(range(1, 1301))
    assert series.column("step").mean(100, 200) == 150.5
    assert series.column("kl")[7] == steps[7].kl


def test_a_long_series_can_be_extended_from_any_prefix() -> None:
    steps = [step for n in range(1, 1301) for step in step_events(n, 1300) if is_step(step)]
    series = PackedHistory(steps, columns=("step",))

    for length in (0, 1, 255, 256, 257, 700, 1299, 1300):
        branch = series.prefix(length).with_items([steps[5]])
        assert list(branch) == [*steps[:length], steps[5]]
        assert list(branch.column("step")) == [*range(1, length + 1), 6]
    assert series == steps


def test_sums_and_means_of_a_column_skip_unknown_values() -> None:
    step = next(step for step in step_events(1, 9) if isinstance(step, ev.StepFinished))
    steps = [replace(step, kl=value) for value in (1.0, None, 3.0, None)]
    column = PackedHistory(steps, columns=("kl",)).column("kl")

    assert list(column) == [1.0, None, 3.0, None]
    assert (column.sum(), column.mean(0, 4), column.mean(3, 4)) == (4.0, 2.0, None)


def is_step(event: ev.Event) -> bool:
    return isinstance(event, ev.StepFinished)


# --- hostile or foreign files --------------------------------------------------------


IMPOSSIBLE_OWNER = json.dumps({"pid": -1, "started": 1, "host": socket.gethostname()})


@pytest.mark.parametrize(
    "text", [IMPOSSIBLE_OWNER, IMPOSSIBLE_OWNER.replace("-1", "1e400"), "[" * 100_000]
)
def test_an_impossible_owner_is_not_alive(text: str, directory: RunDirectory) -> None:
    directory.owner.write_text(text)

    assert not owner.is_alive(directory)


@pytest.mark.parametrize("name", ["owner.json", "control.json"])
def test_a_pipe_or_device_in_place_of_a_small_file_does_not_block(
    name: str, directory: RunDirectory
) -> None:
    os.mkfifo(directory.path / name)
    assert not owner.is_alive(directory)
    assert control.pop_request(directory) is None

    (directory.path / name).unlink(missing_ok=True)
    (directory.path / name).symlink_to("/dev/zero")
    assert not owner.is_alive(directory)
    assert control.pop_request(directory) is None


def test_an_unreadable_completion_is_replaced_by_an_error_text() -> None:
    write(Path("run/events.jsonl"), steps=1)
    path = Path("run/completions.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = b'{"step": 1, "group": "x"}\n'
    path.write_bytes(b"".join(lines))
    store = CompletionStore(path)
    store.refresh()

    result = store.load(1)

    assert len(result) == 8
    assert "line 4 of this step cannot be read" in result[3].finished.text


def test_a_run_that_contains_a_link_cannot_be_resumed(directory: RunDirectory) -> None:
    Path("outside").mkdir()
    append(directory.events, line(0, run_started(directory.path, 10)))
    directory.checkpoints.symlink_to(Path("outside").absolute())

    with pytest.raises(UsageError, match="checkpoints in run is not a regular file or folder"):
        resume.find_resume_point(directory)


@pytest.mark.parametrize("kind", ["pipe", "device", "long line"])
@pytest.mark.parametrize(
    "name", ["events.jsonl", "completions.jsonl", "manifest.json", "config.yaml", "owner.json"]
)
def test_a_pipe_a_device_or_an_endless_line_does_not_hold_up_a_reader(name: str, kind: str) -> None:
    write(Path("run/events.jsonl"), steps=1)
    directory = RunDirectory(Path("run"))
    path = directory.path / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with open(path, "wb") as file:
            file.truncate(3 << 30)

    summary = read_summary(directory)
    assert (summary.status == "unreadable") is (name == "events.jsonl")
    assert not owner.is_alive(directory)
    assert manifest.read(directory.manifest) == {}
    with pytest.raises(UsageError):
        _ = Run(directory.path, RunState(), "died").config
    if name == "events.jsonl":
        with pytest.raises(UsageError, match="could not read run"):
            read_final_state(directory)
        with pytest.raises(OSError, match=r"link|regular|longer"):
            Follower(path).read()
    if name == "completions.jsonl":
        with pytest.raises(UsageError, match=r"completions.jsonl cannot be read: (it is|a line)"):
            list(read_completions(directory))


def test_a_process_is_the_owner_after_the_clock_was_set(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.claim(directory)
    if sys.platform == "linux":
        boot_time = psutil.boot_time()
        monkeypatch.setattr(psutil, "boot_time", lambda: boot_time + 5)
        monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot_time + 5)
        monkeypatch.setattr(psutil._pslinux, "BOOT_TIME", boot_time + 5, raising=False)

    assert owner.is_alive(directory)


def test_a_latest_link_to_a_folder_outside_is_not_followed() -> None:
    write(Path("outside/run/events.jsonl"), steps=1)
    Path("outputs/quickstart").mkdir(parents=True)
    Path("outputs/quickstart/latest").symlink_to(Path("outside/run").absolute())

    with pytest.raises(UsageError, match="links to a folder outside"):
        find_run("quickstart", Path("outputs"))


def write_checkpoint_files(folder: Path) -> None:
    for name in (*checkpoints.REQUIRED_FILES, "adapter_model.safetensors"):
        (folder / name).write_text(name)


def save_checkpoint(folder: Path, step: int, run_id: str = "mine") -> Path:
    return checkpoints.save_checkpoint(
        folder, step, write_checkpoint_files, reward=0.1 * step, metadata={"run_id": run_id}, keep=1
    )


def test_a_checkpoint_with_a_foreign_file_is_broken() -> None:
    checkpoint = save_checkpoint(Path("checkpoints"), 1)
    (checkpoint / "pytorch_model.bin").write_text("pickled")

    result = checkpoints.verify_checkpoint(checkpoint)

    assert isinstance(result, checkpoints.BrokenCheckpoint)
    assert result.reason == "it contains an unexpected file or link: pytorch_model.bin"


def test_removing_old_checkpoints_does_not_follow_links() -> None:
    other = save_checkpoint(Path("outside"), 1, "other")
    Path("checkpoints").mkdir()
    Path("checkpoints/checkpoint-1").symlink_to(other.absolute())
    Path("checkpoints/.saving-1-2").symlink_to(other.absolute())

    for step in (1, 2, 3):
        save_checkpoint(Path("checkpoints"), step)

    assert isinstance(checkpoints.verify_checkpoint(other, thorough=True), checkpoints.Checkpoint)
    assert sorted(p.name for p in Path("checkpoints").iterdir()) == ["checkpoint-3", "latest"]


def test_checkpoints_of_another_run_are_not_removed() -> None:
    other = save_checkpoint(Path("checkpoints"), 1, "other")
    for step in (2, 3):
        save_checkpoint(Path("checkpoints"), step)

    assert other.is_dir()
