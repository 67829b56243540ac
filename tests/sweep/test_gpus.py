"""GPUs of a sweep: how they are found, and that every run gets one to itself."""

from __future__ import annotations

import fcntl
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ida_tui.errors import ExitCode
from ida_tui.sweep import gpus, processes
from ida_tui.sweep.processes import LocalMachine, SweepProcess, TrainingProcess
from tests.support.stand_in_training import GPUS_FILE, write_stand_in
from tests.support.synthetic_sweep import RunOutcome, create_sweep

LISTING = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-5c3a)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-77aa)
"""
DIVIDED = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-5c3a)
  MIG 3g.40gb     Device  0: (UUID: MIG-11)
  MIG 3g.40gb     Device  1: (UUID: MIG-22)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-77aa)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of an nvidia-smi that lists two GPUs, on a machine where nothing else is on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    file = folder / "nvidia-smi"
    file.write_text(f"#!{sys.executable}\nprint({LISTING!r})\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return file


def test_gpus_are_those_that_nvidia_smi_lists(program: Path) -> None:
    assert gpus.find_gpus() == ("0", "1")
    assert gpus.environment_for("1") == {
        "CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }  # fmt: skip
    program.write_text(f"#!{sys.executable}\nraise SystemExit(9)\n")
    assert gpus.find_gpus() == ()
    program.unlink()
    assert gpus.find_gpus() == ()


def test_the_parts_of_a_divided_gpu_count_in_its_place() -> None:
    assert gpus.parse_listing(DIVIDED) == ("MIG-11", "MIG-22", "1")


@pytest.mark.parametrize(
    ("variable", "found"),
    [
        ("2,5", ("2", "5")),
        ("GPU-5c3a, MIG-11", ("GPU-5c3a", "MIG-11")),
        ("1,-1,2", ("1",)),
        ("0,0", ("0",)),
        ("NoDevFiles", ()),
        ("", ()),
    ],
)
def test_gpus_are_those_that_the_person_has_made_visible(
    variable: str, found: tuple[str, ...], program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert gpus.find_gpus() == found
    assert gpus.environment_for("2") == {"CUDA_VISIBLE_DEVICES": "2"}


def test_four_runs_on_two_gpus_use_both_and_never_share_one(
    tmp_path: Path, ida_tui_here: Any
) -> None:
    path = write_stand_in(tmp_path, [RunOutcome()] * 4)

    result = ida_tui_here(
        "sweep", "quickstart", "device=auto", "seed=0,1,2,3",
        PYTHONPATH=path, CUDA_VISIBLE_DEVICES="4,7",
    )  # fmt: skip

    assert result.code == ExitCode.DONE
    assert "a GPU for each run: 4, 7" in result.out
    used = dict(json.loads(line) for line in Path(GPUS_FILE).read_text().splitlines())
    assert set(used) == {0, 1, 2, 3}
    assert set(used.values()) == {"4", "7"}
    active: dict[str, str] = {}
    for line in result.out.splitlines():
        match line.split():
            case ["●", number, _, "starting", "on", "GPU", gpu]:
                assert gpu not in active.values()
                active[number] = gpu
                assert used[int(number.partition("/")[0]) - 1] == gpu
            case ["✓", number, *_] if "/" in number:
                del active[number]
    assert active == {}


def test_runs_on_the_cpu_get_no_gpu_and_run_one_at_a_time() -> None:
    machine = LocalMachine(("0", "1"))
    sweep = create_sweep({"seed": ("0", "1")}, [])

    assert machine.slots(None, uses_gpus=False) == 1
    assert machine.slots(None, uses_gpus=True) == 2
    assert machine._choose_gpu(sweep, {}) is None


def test_runs_on_other_gpus_do_not_count_for_the_memory_of_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dataclasses import replace

    sweep = create_sweep({"seed": ("0", "1", "2", "3")}, [])
    large = tuple(replace(item, planned=20e9) for item in sweep.combinations)
    sweep = replace(sweep, combinations=large, uses_gpus=True, jobs=4)
    machine = LocalMachine(("0", "1"))
    active: dict[int, TrainingProcess] = {0: SweepProcess(sweep, 0, None, "0")}

    assert not machine.has_room(
        sweep, 1, active
    )  # this machine has no GPUs, so its memory is shared
    monkeypatch.setattr(processes, "guess_device", lambda: "cuda")
    assert machine.has_room(sweep, 1, active)
    active[1] = SweepProcess(sweep, 1, None, "1")
    assert not machine.has_room(sweep, 2, active)


def test_a_run_that_outlives_its_sweep_keeps_its_gpu() -> None:
    sweep = create_sweep({"seed": ("0", "1")}, [])
    with open(sweep.lock_file(0), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("1")
        lock.flush()

        adopted = processes.start_process(sweep, 0, None, None, gpu="0")

    assert adopted.is_adopted
    assert adopted.gpu == "1"
