"""Following a run, knowing who trains it, listing runs, and reading completions back."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ida_tui.errors import UsageError
from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.events.history import PackedHistory
from ida_tui.runs import control, owner, resume
from ida_tui.runs.catalog.index import read_summaries
from ida_tui.runs.catalog.lookup import find_run
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import Follower
from ida_tui.runs.store import checkpoints
from ida_tui.runs.store.completions import CompletionStore
from tests.support.scripted_session import run_ended, run_started
from tests.support.synthetic_run import run_events, step_events, write


def line(seq: int, event: ev.Event) -> bytes:
    return codec.encode(ev.Record(seq, f"2026-01-31T12:00:{seq:02}.000Z", event)).encode() + b"\n"


def append(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.write(data)


# --- following ----------------------------------------------------------------------------------


def test_a_follower_gives_each_record_once_and_in_order() -> None:
    path = Path("events.jsonl")
    follower = Follower(path)
    assert follower.read() == []

    append(path, line(0, ev.PhaseChanged(1, "generate")) + line(1, ev.PhaseChanged(1, "judge")))
    assert [record.seq for record in follower.read()] == [0, 1]
    assert follower.read() == []
    append(path, line(2, ev.PhaseChanged(1, "update")))
    assert [record.seq for record in follower.read()] == [2]


def test_a_follower_waits_for_the_rest_of_a_line_even_within_a_character() -> None:
    path, whole = Path("events.jsonl"), line(0, ev.Noticed("info", "judge", "três – déjà"))
    cut = whole.index("ê".encode()) + 1
    follower = Follower(path)

    append(path, whole[:cut])
    assert follower.read() == []
    append(path, whole[cut:])
    assert [record.event for record in follower.read()] == [
        ev.Noticed("info", "judge", "três – déjà")
    ]


def test_a_follower_takes_no_more_than_it_is_asked_for() -> None:
    path = Path("events.jsonl")
    append(path, b"".join(line(n, ev.PhaseChanged(n, "judge")) for n in range(5)))
    follower = Follower(path)

    assert [len(follower.read(2)) for _ in range(4)] == [2, 2, 1, 0]


def test_a_follower_names_a_line_that_is_no_event_and_goes_on_after_it() -> None:
    path = Path("events.jsonl")
    append(path, b"no event\n" + line(1, ev.PhaseChanged(1, "judge")))
    follower = Follower(path)

    with pytest.raises(codec.EventError, match=r"events\.jsonl: byte 0"):
        follower.read()
    assert [record.seq for record in follower.read()] == [1]


# --- owners -------------------------------------------------------------------------------------


@pytest.fixture
def directory() -> RunDirectory:
    """A run directory without anything in it."""
    Path("run").mkdir()
    return RunDirectory(Path("run"))


def test_a_run_is_alive_while_its_process_is(directory: RunDirectory) -> None:
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


def test_a_run_is_not_alive_after_its_process_has_let_go_of_it(directory: RunDirectory) -> None:
    with owner.owned_run(directory):
        assert owner.is_alive(directory)
    assert not owner.is_alive(directory)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "started": 1, "host": 1}']
)
def test_a_claim_that_cannot_be_read_is_none(text: str, directory: RunDirectory) -> None:
    directory.owner.write_text(text)

    assert not owner.is_alive(directory)


def test_the_number_of_another_process_is_not_the_owner(directory: RunDirectory) -> None:
    owner.claim(directory)
    claimed = json.loads(directory.owner.read_text())
    directory.owner.write_text(json.dumps(claimed | {"started": claimed["started"] - 500}))

    assert not owner.is_alive(directory)


def test_a_run_on_another_machine_is_alive_while_it_writes(directory: RunDirectory) -> None:
    directory.events.write_text("")
    directory.owner.write_text(json.dumps({"pid": 1, "started": 0, "host": "another-machine"}))
    assert owner.is_alive(directory)

    os.utime(directory.events, (0, 0))
    assert not owner.is_alive(directory)


# --- lists --------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_with_how_they_ended() -> None:
    write(Path("outputs/quickstart/20260101-000000/events.jsonl"), steps=3)
    later = Path("outputs/dev-mps/20260131-120000/events.jsonl")
    append(later, line(1, run_started(later.parent, 10)) + line(2, run_ended("failed", "no")))
    Path("outputs/dev-mps/latest").symlink_to("20260131-120000")

    listed = read_summaries(Path("outputs"))

    assert [(run.path.parent.name, run.status) for run in listed] == [
        ("dev-mps", "failed"),
        ("quickstart", "done"),
    ]
    assert listed[1].model == "embedded"
    assert listed[0].steps == 10


def test_a_run_without_an_end_has_died_or_lives() -> None:
    run = Path("outputs/quickstart/20260101-000000")
    events = list(run_events(run, 5))[:-30]
    append(run / "events.jsonl", b"".join(line(n % 60, event) for n, event in enumerate(events)))
    assert read_summaries(Path("outputs"))[0].status == "died"
    assert read_summaries(Path("outputs"))[0].steps_done == 3

    with owner.owned_run(RunDirectory(run)):
        assert read_summaries(Path("outputs"))[0].status == "live"


def test_a_run_that_cannot_be_read_is_listed_with_the_reason() -> None:
    append(Path("outputs/quickstart/20260101-000000/events.jsonl"), b"")

    (listed,) = read_summaries(Path("outputs"))

    assert listed.status == "unreadable"
    assert listed.problem == "events.jsonl contains no events"


def test_a_folder_that_is_not_there_holds_no_runs() -> None:
    assert read_summaries(Path("nowhere")) == []


def test_a_run_that_was_resumed_after_its_end_has_not_ended() -> None:
    run = Path("outputs/quickstart/20260101-000000")
    append(
        run / "events.jsonl",
        line(0, run_started(run))
        + line(1, run_ended("interrupted", "Stopped"))
        + line(2, ev.RunResumed(0)),
    )

    assert read_summaries(Path("outputs"))[0].status == "died"


# --- completions --------------------------------------------------------------------------------


def test_the_completions_of_any_step_are_read_back() -> None:
    write(Path("run/events.jsonl"), steps=4)
    store = CompletionStore(Path("run/completions.jsonl"))
    store.refresh()

    assert store.steps == (1, 2, 3, 4)
    assert [c.finished.index for c in store.load(3)] == list(range(8))
    assert all(c.scored is not None and c.scored.step == 3 for c in store.load(3))
    assert store.load(9) == ()


def test_the_store_takes_in_what_is_appended_and_waits_for_torn_lines() -> None:
    write(Path("whole/events.jsonl"), steps=2)
    data = Path("whole/completions.jsonl").read_bytes()
    path = Path("growing.jsonl")
    store = CompletionStore(path)
    store.refresh()
    assert store.steps == ()

    cut = len(data) - 40
    append(path, data[:cut])
    store.refresh()
    assert len(store.load(2)) == 7
    append(path, data[cut:])
    store.refresh()
    assert len(store.load(2)) == 8


def test_of_a_step_that_was_sampled_twice_the_later_completions_count() -> None:
    write(Path("run/events.jsonl"), steps=3)
    path = Path("run/completions.jsonl")
    again = path.read_bytes().splitlines(keepends=True)[8:16]
    append(path, b"".join(again).replace(b"First look", b"Again, look"))
    store = CompletionStore(path)
    store.refresh()

    assert [c.finished.text[:11] for c in store.load(2)] == ["Again, look"] * 8
    assert [c.finished.text[:10] for c in store.load(3)] == ["First look"] * 8


def test_a_search_finds_the_nearest_step_in_its_direction() -> None:
    write(Path("run/events.jsonl"), steps=6)
    path = Path("run/completions.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    for at in (0, 35, 44):  # in the steps 1, 5 and 6
        lines[at] = lines[at].replace(b"with ps", b"with TASKLIST")
    path.write_bytes(b"".join(lines))
    store = CompletionStore(path)
    store.refresh()

    assert store.search(["tasklist", "kill"], 2, 1) == 5
    assert store.search(["tasklist"], 5, 1) == 6
    assert store.search(["tasklist"], 5, -1) == 1
    assert store.search(["tasklist"], 1, -1) is None
    assert store.search(["nowhere"], 1, 1) is None


# --- series -------------------------------------------------------------------------------------


def test_a_series_that_was_extended_twice_keeps_both_ends_apart() -> None:
    base = PackedHistory([1, 2])
    left, right = base.with_item(3), base.with_item(4)

    assert (list(base), list(left), list(right)) == ([1, 2], [1, 2, 3], [1, 2, 4])
    assert left[-1] == 3
    assert left[1:] == (2, 3)
    assert base == (1, 2) != left
    with pytest.raises(IndexError):
        base[2]


def test_a_long_series_packs_what_is_behind_and_gives_it_back_as_it_was() -> None:
    steps = [step for n in range(1, 1301) for step in step_events(n, 1300) if is_step(step)]
    series = PackedHistory(steps, columns=("step", "kl"))

    assert list(series) == steps == series
    assert (series[0], series[-1], series[255:257]) == (steps[0], steps[-1], tuple(steps[255:257]))
    assert list(series.column("step")) == list(range(1, 1301))
    assert series.column("step").mean(100, 200) == 150.5
    assert series.column("kl")[7] == steps[7].kl


def test_a_long_series_can_branch_off_anywhere() -> None:
    steps = [step for n in range(1, 1301) for step in step_events(n, 1300) if is_step(step)]
    series = PackedHistory(steps, columns=("step",))

    for length in (0, 1, 255, 256, 257, 700, 1299, 1300):
        branch = series.prefix(length).with_item(steps[5])
        assert list(branch) == [*steps[:length], steps[5]]
        assert list(branch.column("step")) == [*range(1, length + 1), 6]
    assert series == steps


def test_figures_leave_out_what_is_not_known() -> None:
    known = next(step for step in step_events(1, 9) if isinstance(step, ev.StepFinished))
    steps = [replace(known, kl=value) for value in (1.0, None, 3.0, None)]
    figures = PackedHistory(steps, columns=("kl",)).column("kl")

    assert list(figures) == [1.0, None, 3.0, None]
    assert (figures.sum(), figures.mean(0, 4), figures.mean(3, 4)) == (4.0, 2.0, None)


def is_step(event: ev.Event) -> bool:
    return isinstance(event, ev.StepFinished)


# --- what somebody else may have put there --------------------------------------------------------


HERE = json.dumps({"pid": -1, "started": 1, "host": socket.gethostname()})


@pytest.mark.parametrize("text", [HERE, HERE.replace("-1", "1e400"), "[" * 100_000])
def test_an_owner_that_no_process_can_be_is_not_alive(text: str, directory: RunDirectory) -> None:
    directory.owner.write_text(text)

    assert not owner.is_alive(directory)


@pytest.mark.parametrize("name", ["owner.json", "control.json"])
def test_a_pipe_or_a_device_in_the_place_of_a_small_file_is_not_waited_for(
    name: str, directory: RunDirectory
) -> None:
    os.mkfifo(directory.path / name)
    assert not owner.is_alive(directory)
    assert control.pop_request(directory) is None

    (directory.path / name).unlink(missing_ok=True)
    (directory.path / name).symlink_to("/dev/zero")
    assert not owner.is_alive(directory)
    assert control.pop_request(directory) is None


def test_a_completion_that_cannot_be_read_says_so_in_its_place() -> None:
    write(Path("run/events.jsonl"), steps=1)
    path = Path("run/completions.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = b'{"step": 1, "group": "x"}\n'
    path.write_bytes(b"".join(lines))
    store = CompletionStore(path)
    store.refresh()

    found = store.load(1)

    assert len(found) == 8
    assert "line 4 of this step cannot be read" in found[3].finished.text


def test_a_run_with_a_link_in_it_is_not_gone_on_with(directory: RunDirectory) -> None:
    Path("elsewhere").mkdir()
    append(directory.events, line(0, run_started(directory.path, 10)))
    directory.checkpoints.symlink_to(Path("elsewhere").absolute())

    with pytest.raises(UsageError, match="checkpoints in run is not a regular file or folder"):
        resume.find_resume_point(directory)


def test_a_latest_that_leads_out_of_its_folder_is_not_followed() -> None:
    write(Path("elsewhere/run/events.jsonl"), steps=1)
    Path("outputs/quickstart").mkdir(parents=True)
    Path("outputs/quickstart/latest").symlink_to(Path("elsewhere/run").absolute())

    with pytest.raises(UsageError, match="links to a folder outside"):
        find_run("quickstart", Path("outputs"))


def whole_checkpoint(folder: Path) -> None:
    for name in (*checkpoints.REQUIRED_FILES, "adapter_model.safetensors"):
        (folder / name).write_text(name)


def saved(folder: Path, step: int, run_id: str = "mine") -> Path:
    return checkpoints.save_checkpoint(
        folder, step, whole_checkpoint, r_ida=0.1 * step, metadata={"run_id": run_id}, keep=1
    )


def test_a_file_beside_the_sealed_ones_makes_a_checkpoint_none() -> None:
    place = saved(Path("checkpoints"), 1)
    (place / "pytorch_model.bin").write_text("pickled")

    found = checkpoints.verify_checkpoint(place)

    assert isinstance(found, checkpoints.BrokenCheckpoint)
    assert found.reason == "it contains a foreign file or link: pytorch_model.bin"


def test_making_room_for_checkpoints_removes_nothing_that_a_link_leads_to() -> None:
    other = saved(Path("elsewhere"), 1, "other")
    Path("checkpoints").mkdir()
    Path("checkpoints/checkpoint-1").symlink_to(other.absolute())
    Path("checkpoints/.saving-1-2").symlink_to(other.absolute())

    for step in (1, 2, 3):
        saved(Path("checkpoints"), step)

    assert isinstance(checkpoints.verify_checkpoint(other, thorough=True), checkpoints.Checkpoint)
    assert sorted(p.name for p in Path("checkpoints").iterdir()) == ["checkpoint-3", "latest"]


def test_checkpoints_of_another_run_are_left_alone() -> None:
    other = saved(Path("checkpoints"), 1, "other")
    for step in (2, 3):
        saved(Path("checkpoints"), step)

    assert other.is_dir()
