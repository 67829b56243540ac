"""A disk that fills up while a run goes: it waits, says so, loses nothing, and goes on once there is room."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ida_tui.runs import checkpoints
from ida_tui.runs.append import Appender, is_full
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.reader import read_events
from ida_tui.runs.resumption import resumption
from ida_tui.state import fold_all
from tests.test_control import SHORT
from tests.test_stopping import read_until, start


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    place = tmp_path / "small"
    place.mkdir()
    asked = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if subprocess.run(asked, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs to mount a small file system: root on Linux")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Take every byte that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65_536, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return filler


def test_a_line_that_does_not_fit_leaves_no_half_of_itself(small_disk: Path) -> None:
    file = Appender(small_disk / "lines")
    file.write("first", durable=True)
    filler = fill(small_disk)
    with pytest.raises(OSError, match="No space left") as refused:
        file.write("x" * 100_000, durable=False)
    assert is_full(refused.value, small_disk)
    filler.unlink()
    file.write("second", durable=True)
    file.close()
    assert (small_disk / "lines").read_text() == "first\nsecond\n"


def test_a_checkpoint_that_does_not_fit_leaves_the_older_ones(small_disk: Path) -> None:
    def write(folder: Path) -> None:
        for name in (*checkpoints.NEEDED, "adapter_model.safetensors"):
            (folder / name).write_bytes(b"x" * 200_000)

    def save(step: int) -> Path:
        return checkpoints.save(small_disk, step, write, r_ida=None, facts={}, keep=3)

    save(1)
    fill(small_disk)
    with pytest.raises(OSError, match="No space left"):
        save(2)
    whole, broken = checkpoints.find(small_disk)
    assert ([c.step for c in whole], broken) == ([1], [])
    assert not list(small_disk.glob(".saving-*"))
    assert (small_disk / "latest").resolve().name == "checkpoint-1"


def test_a_run_on_a_disk_that_fills_up_waits_and_goes_on_when_there_is_room(
    small_disk: Path, ida_tui_here: Any
) -> None:
    saving = ("training.max_steps=6", "training.save_steps=1")
    assert ida_tui_here("--run", *SHORT, *saving).code == 0
    wanted = Path("outputs/quickstart/latest/adapter/adapter_model.safetensors").read_bytes()

    run = start(*SHORT, *saving, f"output_dir={small_disk}")
    read_until(run, "StepFinished", 2)
    filler = fill(small_disk)
    assert run.stdout is not None
    paused = next(e for e in map(json.loads, run.stdout) if e["type"] == "RunPaused")
    assert (paused["by"], paused["reason"]) == ("disk", "the disk is full")
    assert run.poll() is None
    filler.unlink()
    out, err = run.communicate(timeout=60)

    assert run.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["steps_done"] == 6
    directory = RunDirectory((small_disk / "quickstart/latest").resolve())
    records = list(read_events(directory.events))
    assert [record.seq for record in records] == list(range(len(records)))
    assert [step.step for step in fold_all(records).steps] == [1, 2, 3, 4, 5, 6]
    assert (directory.weights("lora") / "adapter_model.safetensors").read_bytes() == wanted


def test_a_run_that_is_stopped_while_the_disk_is_full_can_be_gone_on_with(small_disk: Path) -> None:
    run = start(
        *SHORT, "training.save_steps=1", "training.max_steps=50", f"output_dir={small_disk}"
    )
    read_until(run, "CheckpointSaved", 2)
    filler = fill(small_disk)
    assert run.stdout is not None
    next(e for e in map(json.loads, run.stdout) if e["type"] == "RunPaused")
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "Traceback" not in err
    assert "free some space, then: ida-tui resume" in err
    filler.unlink()
    assert resumption(RunDirectory((small_disk / "quickstart/latest").resolve())).step >= 2
