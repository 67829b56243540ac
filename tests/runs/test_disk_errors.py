"""Disk errors during a run: the run pauses, loses nothing and resumes when writing works again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from ida_tui.cli.main import main
from ida_tui.events import types as ev
from ida_tui.events.state import fold_all
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.append import DurableAppender
from ida_tui.runs.log.disk_errors import DISK_FULL, disk_error_of
from ida_tui.runs.log.reader import read_events
from ida_tui.runs.log.writer import RECREATED_NOTICE, EventLog
from ida_tui.runs.resume import find_resume_point
from ida_tui.runs.store import checkpoints
from tests.engine.run.test_control import SHORT, STEP_CALLS
from tests.engine.run.test_stopping import read_until, start
from tests.support.judge_server import Gate, ScriptedJudge
from tests.support.patience import PATIENCE_S


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    mount_point = tmp_path / "small"
    mount_point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(mount_point)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs to mount a small file system: root on Linux")
    yield mount_point
    subprocess.run(["umount", "--lazy", str(mount_point)], check=True)


def fill(disk: Path) -> Path:
    """Uses up all free space; returns the file that does."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65_536, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return filler


def test_a_line_that_does_not_fit_is_not_written_in_part(small_disk: Path) -> None:
    file = DurableAppender(small_disk / "lines")
    file.write("first", durable=True)
    filler = fill(small_disk)
    with pytest.raises(OSError, match="No space left") as refused:
        file.write("x" * 100_000, durable=False)
    assert disk_error_of(refused.value, small_disk) == DISK_FULL
    filler.unlink()
    file.write("second", durable=True)
    file.close()
    assert (small_disk / "lines").read_text() == "first\nsecond\n"


def test_a_checkpoint_that_does_not_fit_does_not_affect_older_ones(small_disk: Path) -> None:
    def write(folder: Path) -> None:
        for name in (*checkpoints.REQUIRED_FILES, "adapter_model.safetensors"):
            (folder / name).write_bytes(b"x" * 200_000)

    def save(step: int) -> Path:
        return checkpoints.save_checkpoint(
            small_disk, step, write, reward=None, metadata={}, keep=3
        )

    save(1)
    fill(small_disk)
    with pytest.raises(OSError, match="No space left"):
        save(2)
    complete, broken = checkpoints.list_checkpoints(small_disk)
    assert ([c.step for c in complete], broken) == ([1], [])
    assert not list(small_disk.glob(".saving-*"))
    assert (small_disk / "latest").resolve().name == "checkpoint-1"


SIX_STEPS = (*SHORT, "training.max_steps=6", "training.save_steps=1")
ADAPTER = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of six steps without a disk error."""
    with pytest.MonkeyPatch.context() as patch, ScriptedJudge() as judge:
        patch.chdir(tmp_path_factory.mktemp("uninterrupted"))
        assert main(["--run", *SIX_STEPS, *judge.overrides]) == 0
        return RunDirectory(Path("outputs/quickstart/latest").resolve())


def test_a_run_on_a_full_disk_waits_and_resumes_when_space_is_free(
    small_disk: Path, uninterrupted: RunDirectory
) -> None:
    gate = Gate(2 * STEP_CALLS)
    with ScriptedJudge(rule=gate) as judge:
        run = start(*SIX_STEPS, *judge.overrides, f"output_dir={small_disk}")
        read_until(run, "StepFinished", 2)
        filler = fill(small_disk)
        gate.open()
        assert run.stdout is not None
        paused = next(e for e in map(json.loads, run.stdout) if e["type"] == "RunPaused")
        assert (paused["by"], paused["reason"]) == ("disk", "the disk is full")
        assert run.poll() is None
        filler.unlink()
        out, err = run.communicate(timeout=PATIENCE_S)

    assert run.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["steps_done"] == 6
    directory = RunDirectory((small_disk / "quickstart/latest").resolve())
    records = list(read_events(directory.events))
    assert [record.seq for record in records] == list(range(len(records)))
    assert [step.step for step in fold_all(records).steps] == [1, 2, 3, 4, 5, 6]
    assert (directory.path / ADAPTER).read_bytes() == (uninterrupted.path / ADAPTER).read_bytes()


def test_a_run_stopped_while_the_disk_is_full_can_be_resumed(small_disk: Path) -> None:
    run = start(
        *SHORT, "training.save_steps=1", "training.max_steps=500", f"output_dir={small_disk}"
    )
    read_until(run, "CheckpointSaved", 2)
    filler = fill(small_disk)
    assert run.stdout is not None
    next(e for e in map(json.loads, run.stdout) if e["type"] == "RunPaused")
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 130, err
    assert "Traceback" not in err
    assert "free some space, then: ida-tui resume" in err
    filler.unlink()
    assert find_resume_point(RunDirectory((small_disk / "quickstart/latest").resolve())).step >= 2


def test_the_final_weights_wait_for_the_disk_as_a_checkpoint_does(
    ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = [
        OSError(errno.EFBIG, "File too large"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ]
    sync = checkpoints.sync_tree

    def failing_sync(folder: Path) -> None:
        if errors and folder.name.startswith(".adapter-writing"):
            raise errors.pop()
        sync(folder)

    monkeypatch.setattr("ida_tui.engine.run.context.sync_tree", failing_sync)
    done = ida_tui_here("--run", *SHORT, "training.max_steps=1", "--json")
    assert done.code == 0, done.err
    pauses = [e["reason"] for e in done.events if e["type"] == "RunPaused"]
    assert pauses[0] == "the disk is full"
    assert "ulimit -f" in str(pauses[1])
    folder = Path("outputs/quickstart/latest")
    assert (folder / "adapter/adapter_model.safetensors").is_file()
    assert not list(folder.glob(".adapter-*"))


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "config.yaml"), 1, "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "config.yaml"), 1, "the disk is read-only"),
        (MemoryError(), 4, "out of memory"),
    ],
)
def test_a_start_that_the_machine_refuses_is_no_bug_of_the_program(
    error: Exception,
    code: int,
    text: str,
    ida_tui_here: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("ida_tui.runs.store.manifest.write", fail)
    done = ida_tui_here("--run", *SHORT)
    assert done.code == code
    assert text in done.err
    assert "fix:" in done.err
    assert "bug" not in done.err


def test_a_writer_of_torch_that_hits_a_size_limit_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 64 vs 0")
    assert disk_error_of(error, tmp_path) is None
    monkeypatch.setattr("resource.getrlimit", lambda _: (1000, 1000))
    found = disk_error_of(error, tmp_path)
    assert found is not None
    assert "ulimit -f" in found.reason


@pytest.mark.parametrize("method", ["removed", "moved"])
def test_a_run_recreates_its_missing_directory_with_all_earlier_events(
    method: str, uninterrupted: RunDirectory
) -> None:
    gate = Gate(2 * STEP_CALLS)
    with ScriptedJudge(rule=gate) as judge:
        run = start(*SIX_STEPS, *judge.overrides, "output_dir=taken")
        read_until(run, "StepFinished", 2)
        if method == "removed":
            shutil.rmtree("taken", ignore_errors=True)
        else:
            Path("taken").rename("moved")
        gate.open()
        out, err = run.communicate(timeout=PATIENCE_S)

    assert run.returncode == 0, err
    assert RECREATED_NOTICE in out
    directory = RunDirectory(Path("taken/quickstart/latest").resolve())
    records = list(read_events(directory.events))
    assert [record.seq for record in records] == list(range(len(records)))
    assert [step.step for step in fold_all(records).steps] == [1, 2, 3, 4, 5, 6]
    rows = [len(d.completions.read_text().splitlines()) for d in (directory, uninterrupted)]
    assert rows[0] == rows[1]
    assert (directory.path / ADAPTER).read_bytes() == (uninterrupted.path / ADAPTER).read_bytes()
    assert directory.config.is_file()
    assert directory.manifest.is_file()


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EROFS, "the disk is read-only"),
        (errno.EACCES, "no permission to write to the run directory"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EIO, "the disk reports an error"),
    ],
)
def test_a_disk_error_pauses_the_run_until_writing_works_again(
    number: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [OSError(number, "no")] * 2
    write = os.write

    def failing_write(file: int, data: memoryview) -> int:
        if errors:
            raise errors.pop()
        return write(file, data)

    records: queue.SimpleQueue[ev.Record] = queue.SimpleQueue()
    with EventLog(RunDirectory(tmp_path), stop_waiting=lambda: False) as log:
        log.subscribe(records)
        monkeypatch.setattr(os, "write", failing_write)
        log.emit(ev.PhaseChanged(1, "save"))
        monkeypatch.undo()
    events = [records.get_nowait().event for _ in range(3)]
    assert isinstance(events[0], ev.RunPaused)
    assert (events[0].by, events[0].reason) == ("disk", reason)
    assert isinstance(events[1], ev.RunResumed)
    assert [r.event for r in read_events(tmp_path / "events.jsonl")] == [events[2]]
