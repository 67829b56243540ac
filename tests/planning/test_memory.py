"""Memory: planned before anything is loaded, watched while a run goes, and the run saved in time."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config.model_files import inspect_model
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Config
from ida_tui.engine.device.memory_guard import MemoryGuard
from ida_tui.events.types import Event, MemorySampled, Noticed
from ida_tui.planning import memory
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.resume import find_resume_point
from ida_tui.system.memory_limit import memory_limit
from tests.engine.test_stopping import read_until, start

GB = 1e9
QUICK_START = (
    "oblit-1-mps",
    "training.per_device_train_batch_size=8",
    "training.gradient_accumulation_steps=1",
)
"""The case of the quick start's memory table: a group of 8 answers of up to 512 tokens at once."""


def config(profile: str, *overrides: str, verify: bool = True) -> Config:
    return resolve(profile, list(overrides), verify=verify).config


def total(made: Config, device: Any = "mps") -> float:
    planned = memory.plan(made, device)
    assert planned is not None
    return planned.peak_bytes / GB


# --- the plan -----------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["qwen3-0.6b", "qwen3-1.7b", "qwen3-4b-mps-fp16"])
def test_the_sizes_in_a_model_profile_add_up_to_its_published_parameters(model: str) -> None:
    made = config("dev-mps", f"model={model}")
    shape = inspect_model(made.model).shape
    assert shape is not None
    assert shape.parameter_count() == made.model.parameters


def test_the_quick_starts_full_float16_case_needs_43_to_46_gb_not_28() -> None:
    full = config(*QUICK_START, "training.method=full", "model.torch_dtype=float16", verify=False)
    assert 43 <= total(full) <= 46


def test_with_an_adapter_the_same_run_needs_11_to_12_and_a_half_gb() -> None:
    assert 11 <= total(config(*QUICK_START)) <= 12.5


def test_every_change_that_is_proposed_needs_less_and_keeps_the_group() -> None:
    base = (*QUICK_START, "training.gradient_checkpointing=false")
    made = config(*base)
    proposed = memory.reductions(made, "mps")
    assert {saving.overrides.split("=")[0] for saving in proposed} == {
        "training.per_device_train_batch_size",
        "training.gradient_checkpointing",
        "training.max_completion_length",
    }
    for saving in proposed:
        changed = config(*base, *saving.overrides.split())
        assert total(changed) == pytest.approx(saving.peak_bytes / GB)
        assert total(changed) < total(made)
        assert changed.training.num_generations == made.training.num_generations
        assert changed.training.completions_per_step == made.training.completions_per_step


def test_the_low_memory_variant_plans_less_for_the_same_group_and_adapter() -> None:
    usual, low = config("oblit-1-mps"), config("oblit-1-mps-lowmem")
    assert total(low) < total(memory.resolve_auto(usual, "mps", 48 * GB))
    assert low.lora == usual.lora
    assert low.training.num_generations == usual.training.num_generations


def test_what_a_profile_leaves_to_the_plan_is_the_quickest_split_that_fits() -> None:
    made = config("oblit-1-mps")
    roomy, tight = (memory.resolve_auto(made, "mps", most * GB).training for most in (96, 16))
    assert (roomy.per_device_train_batch_size, roomy.gradient_checkpointing) == (8, False)
    assert tight.gradient_checkpointing is True
    for training in (roomy, tight):
        assert training.completions_per_step == 8
        assert training.num_generations == 8


def test_what_a_profile_states_is_not_changed_by_the_plan() -> None:
    stated = ("training.token_budget=null", "training.gradient_checkpointing=true")
    made = config("oblit-1-mps", *stated)
    assert memory.resolve_auto(made, "mps", 96 * GB) == made


def test_a_token_budget_in_figures_bounds_a_pass() -> None:
    made = config(
        "oblit-1-mps", "training.token_budget=1200", "training.gradient_checkpointing=true"
    )
    # 512 tokens of completion and some forty of prompt: two rows fit into 1,200.
    assert memory.resolve_auto(made, "mps", 96 * GB).training.per_device_train_batch_size == 2


def test_the_choice_stands_in_the_runs_own_profile(ida_tui_here: Any) -> None:
    small = ("training.max_steps=1", "training.num_generations=4", "evaluation.enabled=false")
    left = ("training.token_budget=auto", "training.gradient_checkpointing=auto")
    done = ida_tui_here("--run", "quickstart", *small, *left)
    assert done.code == 0, done.err
    written = config(str(Path("outputs/quickstart/latest/config.yaml").resolve())).training
    assert written.gradient_checkpointing is False
    assert written.token_budget is None
    assert written.completions_per_step == 64


def test_the_check_shows_what_the_newest_run_held_beside_what_is_planned(ida_tui_here: Any) -> None:
    small = ("training.max_steps=2", "evaluation.enabled=false")
    assert "measured" not in ida_tui_here("--check", "quickstart", *small).out
    assert ida_tui_here("--run", "quickstart", *small).code == 0
    shown = ida_tui_here("--check", "quickstart", *small).out
    planned, measured = re.findall(r"always +([\d.]+) GB +([\d.]+) GB", shown)[0]
    assert 0.5 < float(measured) / float(planned) < 3
    assert "measured in the latest run" in shown


def test_a_run_that_does_not_fit_is_refused_before_anything_is_loaded(ida_tui_here: Any) -> None:
    done = ida_tui_here("--run", "quickstart", "limit_gb=1")
    assert done.code == 4
    assert "does not fit" in done.err
    assert "the limit is 1.0 GB" in done.err
    assert "training.per_device_train_batch_size=1" in done.err
    assert not Path("outputs").exists()


def test_the_check_shows_the_plan_and_how_to_make_it_fit(ida_tui_here: Any) -> None:
    done = ida_tui_here("--check", "oblit-1-mps", "limit_gb=9.8")
    assert "about 10." in done.out
    assert re.search(r"KV cache +0\.69 GB", done.out)
    assert re.search(r"peak +10\.\d\d GB of 9\.80 GB: 10\d%", done.out)
    assert "ida-tui --run oblit-1-mps-lowmem" in done.out


# --- the guard ----------------------------------------------------------------------------


def sample(used: float, swap: float = 0, pressure: int | None = None) -> MemorySampled:
    return MemorySampled(
        int(used * GB), int(24 * GB), int(GB), None, None, int(swap * GB), pressure
    )


def guarded() -> tuple[MemoryGuard, list[Event], threading.Event]:
    said: list[Event] = []
    stop = threading.Event()
    return MemoryGuard(10 * GB, said.append, stop), said, stop


def test_near_the_limit_the_guard_warns_once_and_the_run_goes_on() -> None:
    guard, said, stop = guarded()
    for used in (5, 8.6, 9.0, 8.7):
        guard.check(sample(used))
    assert [event.text for event in said if isinstance(event, Noticed)] == [
        "memory is at 86% of the limit; the run stops at 95%"
    ]
    assert not stop.is_set()


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (sample(9.6), "memory reached 96% of the limit (9.6 of 10.0 GB)"),
        (sample(5, swap=0.6), "the machine started to swap (0.6 GB)"),
        (sample(5, pressure=4), "macOS reports critical memory pressure"),
    ],
    ids=["limit", "swap", "pressure"],
)
def test_at_the_limit_the_guard_ends_the_run_and_says_why(last: MemorySampled, reason: str) -> None:
    guard, _, stop = guarded()
    guard.check(sample(5))
    assert not stop.is_set()
    guard.check(last)
    assert stop.is_set()
    assert guard.reason == reason


def test_a_run_that_fills_the_memory_is_saved_ends_with_4_and_goes_on_as_its_lowmem_variant(
    ida_tui_here: Any,
) -> None:
    own = ("model=embedded", "judge=offline", "device=cpu", "training.max_completion_length=64")
    limit = memory_limit().used / GB + 4
    run = start("oblit-1-mps", *own, "training.max_steps=500", f"limit_gb={limit:.2f}")
    read_until(run, "StepFinished", 2)
    # Something else on the machine takes what is left, and more: 8 GB that are really touched.
    hog = subprocess.Popen(
        ["python3", "-c", "b = b'x' * 8_000_000_000; input()"], stdin=subprocess.PIPE
    )
    try:
        out, err = run.communicate(timeout=120)
    finally:
        hog.kill()
        hog.wait()

    assert run.returncode == 4, err
    ended = json.loads(out.splitlines()[-1])
    assert ended["status"] == "out_of_memory"
    assert "memory reached" in ended["message"]
    directory = RunDirectory(Path("outputs/oblit-1-mps/latest").resolve())
    command = ended["hint"].splitlines()[0].removeprefix("resume with less memory: ")
    assert re.fullmatch(
        "ida-tui resume outputs/oblit-1-mps/[^ ]+ --with oblit-1-mps-lowmem", command
    )
    found = find_resume_point(directory)
    assert found.step == ended["steps_done"] > 0

    steps = found.step + 2
    more = (f"training.max_steps={steps}", "limit_gb=auto")
    done = ida_tui_here(*command.split()[1:], *more)
    assert done.code == 0, done.err
    assert f"Step {steps}/{steps}" in done.out
    went_on, low = config(str(directory.config)).training, config("oblit-1-mps-lowmem").training
    assert went_on.rollout_rows == low.rollout_rows == 4
    assert went_on.num_generations == low.num_generations == 8
    assert went_on.per_device_train_batch_size == 1
    assert went_on.gradient_checkpointing is True


# --- control groups ------------------------------------------------------------------------


@pytest.fixture
def group(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Files as Linux writes them for a process in the group a/b."""

    def made(*, most: str, current: int, inactive: int = 0) -> tuple[Path, Path]:
        folder = tmp_path / "cgroup" / "a"
        (folder / "b").mkdir(parents=True)
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{current}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\n")
        (tmp_path / "self").write_text("0::/a/b\n")
        return tmp_path / "cgroup", tmp_path / "self"

    return made


def test_a_control_groups_limit_counts_where_it_is_tighter_than_the_machine(group: Any) -> None:
    found = memory_limit(*group(most="3000000000", current=2_000_000_000, inactive=500_000_000))
    assert (found.total, found.used) == (3_000_000_000, 1_500_000_000)


def test_a_control_group_without_a_limit_leaves_the_machines_memory(group: Any) -> None:
    import psutil

    assert memory_limit(*group(most="max", current=5)).total == psutil.virtual_memory().total


def test_a_control_group_of_version_1_counts_too(tmp_path: Path) -> None:
    folder = tmp_path / "cgroup" / "memory" / "a"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("3000000000\n")
    (folder / "memory.usage_in_bytes").write_text("2000000000\n")
    (folder / "memory.stat").write_text("inactive_file 7\ntotal_inactive_file 500000000\n")
    (tmp_path / "self").write_text("4:memory:/a\n0::/\n")
    found = memory_limit(tmp_path / "cgroup", tmp_path / "self")
    assert (found.total, found.used, found.is_cgroup) == (3_000_000_000, 1_500_000_000, True)
