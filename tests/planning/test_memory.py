"""Memory: the plan before a run, the guard during a run, and limits of control groups."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ida_tui.config import embedded
from ida_tui.config.model_files import inspect_model
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Config
from ida_tui.engine.device import device
from ida_tui.engine.device.memory_guard import MemoryGuard
from ida_tui.errors import ExitCode, IdaError
from ida_tui.events.types import Event, MemorySampled, Noticed
from ida_tui.planning import memory
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.resume import find_resume_point
from ida_tui.system.memory_limit import memory_limit
from tests.engine.run.test_stopping import read_until, start
from tests.support.patience import PATIENCE_S

GB = 1e9
QUICK_START = (
    "oblit-1-mps",
    "training.per_device_train_batch_size=8",
    "training.gradient_accumulation_steps=1",
)
"""The case in the quick start's memory table: 8 completions of up to 512 tokens in one pass."""


def config(profile: str, *overrides: str, verify: bool = True) -> Config:
    return resolve(profile, list(overrides), verify=verify).config


def plan_of(config: Config, name: Any = "mps", **settings: Any) -> memory.MemoryPlan:
    plan = memory.plan(config, name, **settings)
    assert plan is not None
    return plan


def planned_gb(config: Config, name: Any = "mps") -> float:
    return plan_of(config, name).peak_bytes / GB


# --- the plan -----------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["qwen3-0.6b", "qwen3-1.7b", "qwen3-4b-mps-fp16"])
def test_the_shape_in_a_model_profile_adds_up_to_its_published_parameter_count(model: str) -> None:
    resolved = config("dev-mps", f"model={model}")
    shape = inspect_model(resolved.model).shape
    assert shape is not None
    assert shape.parameter_count() == resolved.model.parameters


def test_full_float16_training_of_the_quick_start_needs_43_to_46_gb() -> None:
    full = config(*QUICK_START, "training.method=full", "model.torch_dtype=float16", verify=False)
    assert 43 <= planned_gb(full) <= 46


def test_the_same_run_with_an_adapter_and_recomputed_activations_needs_12_to_13_gb() -> None:
    assert 12 <= planned_gb(config(*QUICK_START)) <= 13


def test_the_evaluation_is_a_phase_of_its_own_with_the_rows_that_it_samples_at_a_time() -> None:
    planned = plan_of(config("oblit-1-mps", "evaluation.enabled=true"))
    without = plan_of(config("oblit-1-mps"))
    sizes = {item.name: item.size for item in planned.items if item.phase == "evaluation"}
    token = 36 * 2 * 1024 * 2  # layers, keys and values, width, float16
    # 64 rows of 16 prompts; on Metal, 40 prompt tokens take 64.
    assert sizes["KV cache"] == (64 * 512 + 16 * 64) * token
    assert sizes["logits"] == 6 * 64 * 151_936 * 4
    assert planned.training_peak_bytes == without.peak_bytes
    assert planned.peak_bytes == max(
        without.peak_bytes, planned.phase_bytes("always") + sum(sizes.values())
    )


def test_weights_in_another_format_are_held_while_completions_are_drawn() -> None:
    def copies(number_format: str) -> float:
        setting = f"training.sampling_weights={number_format}"
        planned = plan_of(config("quickstart", setting), "cpu")
        sizes = {item.name: item.size for item in planned.items if item.phase == "sampling"}
        return sizes.get("sampling weights", 0.0)

    policy = plan_of(config("quickstart"), "cpu").items[0]
    assert copies("model") == 0
    # The copies leave out the norms; the quickstart's embedding and output layer are one weight.
    assert copies("bfloat16") - copies("int8") == pytest.approx(policy.size / 4, rel=0.01)


def test_rollout_rows_limit_the_evaluation() -> None:
    low = plan_of(config("oblit-1-mps-lowmem", "evaluation.enabled=true"))
    assert low.phase_bytes("evaluation") == low.phase_bytes("sampling")


def test_an_evaluation_that_needs_more_than_the_training_gets_a_smaller_batch_first() -> None:
    resolved = config(*QUICK_START, "evaluation.enabled=true")
    assert "evaluation.batch_size=32" in memory.reductions(resolved, "mps")[0].overrides
    changed = config(*QUICK_START, "evaluation.enabled=true", "evaluation.batch_size=32")
    planned = plan_of(changed)
    assert planned.peak_bytes == planned.training_peak_bytes
    assert not any("evaluation" in saving.overrides for saving in memory.reductions(changed, "mps"))


def test_the_evaluation_does_not_change_how_a_step_is_split() -> None:
    large = config("oblit-1-mps", "evaluation.enabled=true", "evaluation.batch_size=4096")
    small = config("oblit-1-mps")
    chosen = [memory.resolve_auto(resolved, "mps", 48 * GB) for resolved in (large, small)]
    assert chosen[0].training == chosen[1].training


def test_the_profile_for_48_gb_trains_two_halves_with_stored_activations() -> None:
    chosen = memory.resolve_auto(config("oblit-1-mps"), "mps", 48 * GB)
    training = chosen.training
    assert (training.per_device_train_batch_size, training.gradient_checkpointing) == (4, False)
    planned, fused = (plan_of(chosen, attention=way) for way in ("math", "fused"))
    assert planned_gb(chosen) == pytest.approx(31.7, abs=0.1)
    # One matrix of 4 bytes for each of 36 layers, 32 heads and 4 rows, and float32 copies of q, k and v.
    matrices = 36 * (32 * 4 * 512 * 576 * 4 + 4 * (512 + 2 * 576) * 4096 * 2)
    mask = 36 * 4 * 512 * 576 * 4  # saved by fused attention alone
    temporary = 2 * 4 * 32 * 4 * 512 * 576 - 2 * 9728 * 2 * (64 + 4 * 512)
    assert planned.peak_bytes - fused.peak_bytes == pytest.approx(matrices - mask + temporary)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_several_processes_hold_one_copy_of_the_gradients(method: str) -> None:
    profile = config("dev-mps", f"training.method={method}")
    alone, together = (plan_of(profile, "cuda", processes=n) for n in (1, 2))
    buffers = together.item_bytes("process buffers")
    assert together.item_bytes("gradients") == alone.item_bytes("gradients")
    assert together.peak_bytes - alone.peak_bytes == buffers
    # A gradient is computed beside the buckets and copied there: at most the largest tensor's.
    assert 0 < buffers <= together.item_bytes("gradients")
    assert buffers <= together.item_bytes("policy") / 4


def test_memory_of_a_gpu_is_that_of_the_selected_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.current_device", lambda: 1)
    monkeypatch.setattr(
        "torch.cuda.get_device_properties",
        lambda index: SimpleNamespace(total_memory=(24 * GB, 80 * GB)[index]),
    )
    assert device.total_memory("cuda") == device.usable_memory("cuda") == 80 * GB


def test_every_proposed_change_needs_less_memory_and_keeps_the_group_size() -> None:
    base = (*QUICK_START, "training.gradient_checkpointing=false")
    resolved = config(*base)
    proposed = memory.reductions(resolved, "mps")
    assert {saving.overrides.split("=")[0] for saving in proposed} == {
        "training.per_device_train_batch_size",
        "training.gradient_checkpointing",
        "training.max_completion_length",
    }
    for saving in proposed:
        changed = config(*base, *saving.overrides.split())
        assert planned_gb(changed) == pytest.approx(saving.peak_bytes / GB)
        assert planned_gb(changed) < planned_gb(resolved)
        assert changed.training.num_generations == resolved.training.num_generations
        assert changed.training.completions_per_step == resolved.training.completions_per_step


def test_the_low_memory_variant_needs_less_for_the_same_group_and_adapter() -> None:
    standard, low = config("oblit-1-mps"), config("oblit-1-mps-lowmem")
    assert planned_gb(low) < planned_gb(memory.resolve_auto(standard, "mps", 48 * GB))
    assert low.lora == standard.lora
    assert low.training.num_generations == standard.training.num_generations


def test_automatic_settings_become_the_fastest_split_that_fits() -> None:
    resolved = config("oblit-1-mps")
    roomy, tight = (memory.resolve_auto(resolved, "mps", limit * GB).training for limit in (96, 16))
    assert (roomy.per_device_train_batch_size, roomy.gradient_checkpointing) == (8, False)
    assert tight.gradient_checkpointing is True
    for training in (roomy, tight):
        assert training.completions_per_step == 8
        assert training.num_generations == 8


def test_explicit_settings_are_not_changed_by_the_plan() -> None:
    explicit = ("training.token_budget=null", "training.gradient_checkpointing=true")
    resolved = config("oblit-1-mps", *explicit)
    assert memory.resolve_auto(resolved, "mps", 96 * GB) == resolved


def test_a_numeric_token_budget_limits_the_batch_of_a_pass() -> None:
    resolved = config(
        "oblit-1-mps", "training.token_budget=1200", "training.gradient_checkpointing=true"
    )
    # A row has 512 completion tokens and about 40 prompt tokens: two rows fit into 1,200.
    assert memory.resolve_auto(resolved, "mps", 96 * GB).training.per_device_train_batch_size == 2


def test_the_chosen_settings_are_written_to_the_runs_config(ida_tui_here: Any) -> None:
    small = ("training.max_steps=1", "training.num_generations=4", "evaluation.enabled=false")
    automatic = ("training.token_budget=auto", "training.gradient_checkpointing=auto")
    result = ida_tui_here("--run", "quickstart", *small, *automatic)
    assert result.code == 0, result.err
    written = config(str(Path("outputs/quickstart/latest/config.yaml").resolve())).training
    assert written.gradient_checkpointing is False
    assert written.token_budget is None
    assert written.completions_per_step == 64


def test_the_check_shows_measured_memory_of_the_latest_run_next_to_the_plan(
    ida_tui_here: Any,
) -> None:
    small = ("training.max_steps=2", "evaluation.enabled=false")
    assert "measured" not in ida_tui_here("--check", "quickstart", *small).out
    assert ida_tui_here("--run", "quickstart", *small).code == 0
    shown = ida_tui_here("--check", "quickstart", *small).out
    planned, measured = re.findall(r"always +([\d.]+) GB +([\d.]+) GB", shown)[0]
    assert 0.5 < float(measured) / float(planned) < 3
    assert "measured in the latest run" in shown


def test_a_run_that_does_not_fit_is_refused_before_anything_is_loaded(ida_tui_here: Any) -> None:
    result = ida_tui_here("--run", "quickstart", "limit_gb=1")
    assert result.code == 4
    assert "does not fit" in result.err
    assert "the limit is 1.0 GB" in result.err
    assert "training.per_device_train_batch_size=1" in result.err
    assert not Path("outputs").exists()


def test_the_check_shows_the_plan_and_how_to_make_it_fit(ida_tui_here: Any) -> None:
    result = ida_tui_here("--check", "oblit-1-mps", "limit_gb=9.8")
    assert "about 10." in result.out
    assert re.search(r"KV cache +0\.61 GB", result.out)
    assert re.search(r"peak +10\.\d\d GB of 9\.80 GB: 10\d%", result.out)
    assert "ida-tui --run oblit-1-mps-lowmem" in result.out


def mixture_of_experts(folder: Path) -> Path:
    """A copy of the embedded model whose configuration says that it has experts."""
    shutil.copytree(embedded.model_folder(), folder)
    settings = json.loads((folder / "config.json").read_text()) | {"num_local_experts": 8}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_the_check_says_that_experts_are_not_planned_and_what_their_weights_need(
    tmp_path: Path, ida_tui_here: Any
) -> None:
    model = mixture_of_experts(tmp_path / "experts")

    result = ida_tui_here("--check", "quickstart", f"model={model}")

    assert "not planned: its layers are split into experts; its weights alone need" in result.out


def test_weights_that_do_not_fit_are_refused_where_there_is_no_plan(tmp_path: Path) -> None:
    experts = config("quickstart", f"model={mixture_of_experts(tmp_path / 'experts')}")
    needed = memory.weight_bytes(experts, "cpu")
    assert needed is not None
    assert needed / 4 == inspect_model(experts.model).parameters

    memory.require_weights_fit(experts, "cpu", needed)
    with pytest.raises(IdaError, match=r"the weights of .* alone need") as refused:
        memory.require_weights_fit(experts, "cpu", needed - 1)
    assert refused.value.code is ExitCode.OUT_OF_MEMORY
    memory.require_weights_fit(experts.model_copy(update={"over_limit": "try"}), "cpu", needed - 1)


def test_the_check_of_a_model_that_is_not_here_says_why_the_hub_was_not_asked(
    ida_tui_here: Any,
) -> None:
    result = ida_tui_here("--check", "quickstart", "model=org/elsewhere")

    assert result.code == 0
    assert "not on this machine; the run downloads them (size unknown)" in result.out
    assert "HF_HUB_OFFLINE switches downloads off" in result.out


# --- the guard ----------------------------------------------------------------------------


def sample(used: float, swap: float = 0, pressure: int | None = None) -> MemorySampled:
    return MemorySampled(
        int(used * GB), int(24 * GB), int(GB), None, None, int(swap * GB), pressure
    )


def guard_with_events() -> tuple[MemoryGuard, list[Event], threading.Event]:
    events: list[Event] = []
    stop = threading.Event()
    return MemoryGuard(10 * GB, events.append, stop), events, stop


def test_the_guard_warns_once_near_the_limit_and_lets_the_run_continue() -> None:
    guard, events, stop = guard_with_events()
    for used in (5, 8.6, 9.0, 8.7):
        guard.check(sample(used))
    assert [event.text for event in events if isinstance(event, Noticed)] == [
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
def test_the_guard_stops_the_run_at_the_limit_with_a_reason(
    last: MemorySampled, reason: str
) -> None:
    guard, _, stop = guard_with_events()
    guard.check(sample(5))
    assert not stop.is_set()
    guard.check(last)
    assert stop.is_set()
    assert guard.reason == reason


def test_a_run_out_of_memory_is_saved_exits_with_4_and_resumes_as_its_low_memory_variant(
    ida_tui_here: Any,
) -> None:
    overrides = (
        "model=embedded",
        "judge=offline",
        "device=cpu",
        "training.max_completion_length=64",
    )
    limit = memory_limit().used / GB + 4
    run = start("oblit-1-mps", *overrides, "training.max_steps=500", f"limit_gb={limit:.2f}")
    read_until(run, "StepFinished", 2)
    # Another process touches 6 GB, more than is left.
    hog = subprocess.Popen(
        ["python3", "-c", "b = b'x' * 6_000_000_000; input()"], stdin=subprocess.PIPE
    )
    try:
        out, err = run.communicate(timeout=PATIENCE_S)
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
    point = find_resume_point(directory)
    assert point.step == ended["steps_done"] > 0

    steps = point.step + 2
    changes = (f"training.max_steps={steps}", "limit_gb=auto")
    result = ida_tui_here(*command.split()[1:], *changes)
    assert result.code == 0, result.err
    assert f"Step {steps}/{steps}" in result.out
    resumed, low = config(str(directory.config)).training, config("oblit-1-mps-lowmem").training
    assert resumed.rollout_rows == low.rollout_rows == 4
    assert resumed.num_generations == low.num_generations == 8
    assert resumed.per_device_train_batch_size == 1
    assert resumed.gradient_checkpointing is True


# --- control groups ------------------------------------------------------------------------


@pytest.fixture
def group(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Returns a function that writes the files of Linux for a process in the control group a/b."""

    def write_group(*, limit: str, current: int, inactive: int = 0) -> tuple[Path, Path]:
        folder = tmp_path / "cgroup" / "a"
        (folder / "b").mkdir(parents=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{current}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\n")
        (tmp_path / "self").write_text("0::/a/b\n")
        return tmp_path / "cgroup", tmp_path / "self"

    return write_group


def test_a_control_group_limit_below_the_machines_memory_applies(group: Any) -> None:
    limit = memory_limit(*group(limit="3000000000", current=2_000_000_000, inactive=500_000_000))
    assert (limit.total, limit.used) == (3_000_000_000, 1_500_000_000)


def test_a_control_group_without_a_limit_gives_the_machines_memory(group: Any) -> None:
    import psutil

    assert memory_limit(*group(limit="max", current=5)).total == psutil.virtual_memory().total


def test_the_limit_of_a_version_1_control_group_applies(tmp_path: Path) -> None:
    folder = tmp_path / "cgroup" / "memory" / "a"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("3000000000\n")
    (folder / "memory.usage_in_bytes").write_text("2000000000\n")
    (folder / "memory.stat").write_text("inactive_file 7\ntotal_inactive_file 500000000\n")
    (tmp_path / "self").write_text("4:memory:/a\n0::/\n")
    limit = memory_limit(tmp_path / "cgroup", tmp_path / "self")
    assert (limit.total, limit.used, limit.is_cgroup) == (3_000_000_000, 1_500_000_000, True)
