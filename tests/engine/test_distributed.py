"""Distributed training: the same weights as a single process, lost ranks, stops and attached readers."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ida_tui.config.resolve import resolve
from ida_tui.config.sections.training import TrainingConfig
from ida_tui.engine.distributed.environment import ProcessInfo, process_info, split_batch
from ida_tui.engine.run import preflight
from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.runs.store import checkpoints
from tests.conftest import IdaTui
from tests.support.judge_server import Gate, ScriptedJudge
from tests.support.launched import (
    MODEL,
    Events,
    completion_texts,
    events_of_type,
    latest,
    offline_scores,
    processes,
    rank,
    read_events,
    relative_distance,
    step,
)  # fmt: skip
from tests.support.patience import PATIENCE_S
from tests.support.prepared import prepared_python

STEPS = 5
RUN = (
    "quickstart", f"training.max_steps={STEPS}", "evaluation.enabled=false",
    "training.max_completion_length=32", "training.per_device_train_batch_size=48",
)  # fmt: skip
PLAIN_RUN = (
    *RUN, "engine=plain", "training.max_steps=2", "training.per_device_train_batch_size=12",
    "training.gradient_accumulation_steps=2",
)  # fmt: skip
STEP_CALLS = 48
"""Calls to the judge in a step."""
# The processes add in a different order: about 2e-6 after six steps of the quickstart.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def single_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Events]:
    """A run of a single process: its directory and its events."""
    folder = tmp_path_factory.mktemp("single-run")
    done = subprocess.run(
        [*prepared_python(), "-m", "ida_tui", "--run", *RUN, "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    return latest(folder), [json.loads(line) for line in done.stdout.splitlines()]


# --- the same result as a single process ---------------------------------------------------


def test_two_processes_train_like_one_while_another_process_is_attached(
    single_run: tuple[Path, Events],
) -> None:
    here = Path.cwd()
    with processes("run", *RUN, "--json", folder=here) as launcher:
        events = read_events(launcher, step(1))
        watching = subprocess.Popen(
            [sys.executable, "-m", "ida_tui", "attach", "quickstart", "--json"],
            stdout=subprocess.PIPE,
            text=True,
        )
        events += read_events(launcher)
        assert launcher.wait() == 0, (here / "stderr.txt").read_text()
    attached_output = watching.communicate(timeout=PATIENCE_S)[0]

    assert watching.returncode == 0
    assert [json.loads(line) for line in attached_output.splitlines()] == events
    assert events_of_type(events, "RunStarted")[0]["processes"] == 2
    assert events_of_type(events, "RunStarted")[0]["completions_per_step"] == 48
    assert completion_texts(events) == completion_texts(single_run[1])
    scored = [event["advantage"] for event in events_of_type(events, "CompletionScored")]
    expected = [event["advantage"] for event in events_of_type(single_run[1], "CompletionScored")]
    assert scored == pytest.approx(expected, abs=1e-4)
    assert relative_distance(single_run[0], latest(here)) < TOLERANCE
    for distributed_step, single_step in zip(
        events_of_type(events, "StepFinished"),
        events_of_type(single_run[1], "StepFinished"),
        strict=True,
    ):
        assert distributed_step["reward"] == pytest.approx(single_step["reward"])
        assert distributed_step["grad_norm"] == pytest.approx(single_step["grad_norm"], rel=1e-4)
        tokens = [tokens for *_, tokens, _ in distributed_step["ranks"]]
        sampled = [event["tokens"] for event in events_of_type(events, "CompletionFinished")
                   if event["step"] == distributed_step["step"]]  # fmt: skip
        assert tokens == [sum(sampled[:24]), sum(sampled[24:])]
        assert all(memory > 1e8 for _, memory, *_ in distributed_step["ranks"])


def test_the_plain_engine_trains_all_weights_with_two_processes_like_with_one(
    ida_tui: IdaTui,
) -> None:
    here = Path.cwd()
    arguments = (*PLAIN_RUN, "training.method=full", "--json")
    single = ida_tui("--run", *arguments, "output_dir=single")
    assert single.code == 0, single.err
    with processes("run", *arguments, folder=here) as launcher:
        events = read_events(launcher)
        assert launcher.wait() == 0, (here / "stderr.txt").read_text()
    assert completion_texts(events) == completion_texts(single.events)
    expected = (here / "single" / "quickstart" / "latest").resolve()
    assert relative_distance(expected, latest(here), MODEL) < TOLERANCE


@pytest.mark.parametrize(
    ("phase", "settings"),
    [
        ("generate", ()),
        ("update", ("engine=plain", "training.method=full", "training.sharding=fsdp")),
        ("save", ("engine=plain", "training.sharding=fsdp")),
    ],
)
def test_a_rank_that_is_killed_ends_the_run_in_any_phase(
    phase: str, settings: tuple[str, ...]
) -> None:
    here = Path.cwd()
    arguments = (
        *RUN, *settings, "training.max_steps=200", "training.save_steps=1", "training.num_generations=4",
        "training.per_device_train_batch_size=8", "training.max_completion_length=16", "--json",
    )  # fmt: skip
    with processes("run", *arguments, folder=here) as launcher:
        read_events(launcher, step(1))
        read_events(launcher, lambda e: (e["type"], e.get("phase")) == ("PhaseChanged", phase))
        rank(1, here).kill()
        ended = read_events(launcher)[-1]
        assert launcher.wait() != 0
    assert (ended["status"], ended["exit_code"]) == ("failed", ExitCode.FAILED)
    assert ended["message"].startswith("process 2 of 2 (rank 1) ended: killed")
    newest = checkpoints.list_checkpoints(latest(here) / "checkpoints")[0][0]
    # A part of all trained weights is lost with the process, and so is a step that it had not saved.
    lost_steps = int("training.method=full" in settings)
    assert ended["steps_done"] - newest.step <= lost_steps
    assert f"checkpoint: {newest.path.relative_to(here)}\nresume with:" in ended["hint"]


def test_one_process_finishes_a_distributed_run_after_a_stop_and_a_lost_rank(
    single_run: tuple[Path, Events], ida_tui: IdaTui
) -> None:
    here = Path.cwd()
    with (
        ScriptedJudge(rule=Gate(STEP_CALLS, offline_scores)) as judge,
        processes("run", *RUN, *judge.overrides, "--json", folder=here) as launcher,
    ):
        read_events(launcher, step(1))
        launcher.send_signal(signal.SIGTERM)
        stopped = read_events(launcher)[-1]
    assert (stopped["status"], stopped["exit_code"]) == ("interrupted", ExitCode.INTERRUPTED)
    assert stopped["steps_done"] == 1
    assert "checkpoint:" in stopped["hint"]

    with (
        ScriptedJudge(rule=Gate(STEP_CALLS, offline_scores)) as judge,
        processes("resume", "quickstart", *judge.overrides, "--json", folder=here) as launcher,
    ):
        read_events(launcher, step(2))
        rank(1, here).kill()
        died = read_events(launcher)[-1]
        assert launcher.wait() != 0
    assert (died["status"], died["exit_code"]) == ("failed", ExitCode.FAILED)
    assert died["message"].startswith("process 2 of 2 (rank 1) ended: killed")
    assert died["steps_done"] == 2
    assert re.search(rf"ida-tui resume \S+/{latest(here).name}$", died["hint"], re.MULTILINE)

    with (
        ScriptedJudge(rule=Gate(STEP_CALLS, offline_scores)) as judge,
        processes(
            "resume", "quickstart", *judge.overrides, "--json", folder=here, number=3
        ) as launcher,
    ):
        read_events(launcher, step(3))
        launcher.send_signal(signal.SIGTERM)
        stopped = read_events(launcher)[-1]
    assert (stopped["status"], stopped["steps_done"]) == ("interrupted", 3)

    resumed = ida_tui("resume", "quickstart", "judge=offline", "--json")
    assert resumed.code == 0, resumed.err
    assert events_of_type(resumed.events, "RunResumed")[0]["from_step"] == 3
    assert relative_distance(single_run[0], latest(here)) < TOLERANCE


# --- how a step is divided ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "passes", "world", "expected"),
    [
        (64, 1, 2, (32, 1)),
        (1, 8, 2, (1, 4)),
        (8, 2, 4, (4, 1)),
        (6, 4, 2, (6, 2)),
        (5, 6, 3, (5, 2)),
    ],
)
def test_a_step_has_the_same_number_of_completions_for_any_number_of_processes(
    batch: int, passes: int, world: int, expected: tuple[int, int]
) -> None:
    training = TrainingConfig(per_device_train_batch_size=batch, gradient_accumulation_steps=passes)
    part = split_batch(training, world)
    assert (part.per_device_train_batch_size, part.gradient_accumulation_steps) == expected
    assert part.completions_per_step * world == training.completions_per_step


def test_an_indivisible_batch_is_refused_with_the_process_counts_that_work(
    ida_tui_here: IdaTui,
) -> None:
    refused = ida_tui_here("--run", *RUN, RANK="0", WORLD_SIZE="5", LOCAL_RANK="0")
    assert refused.code == ExitCode.USAGE
    assert "48 completions per step cannot be divided evenly among 5 processes" in refused.err
    assert "use 3 or 4 or 6 processes" in refused.err
    suggestion = re.search(r"gradient_accumulation_steps=(\d+)", refused.err)
    assert suggestion is not None
    assert split_batch(TrainingConfig(per_device_train_batch_size=48,
                                 gradient_accumulation_steps=int(suggestion[1])), 5)  # fmt: skip
    assert not Path("outputs").exists()


@pytest.mark.parametrize("arguments", [(), ("runs",), ("--run", "quickstart", "--detach")])
def test_several_processes_can_only_train_in_the_foreground(
    arguments: tuple[str, ...], ida_tui_here: IdaTui
) -> None:
    refused = ida_tui_here(*arguments, RANK="0", WORLD_SIZE="2")
    assert refused.code == ExitCode.USAGE
    assert "2 processes can only train or resume a run" in refused.err


def test_launcher_variables_are_read_and_invalid_ones_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert process_info().is_single
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert process_info().is_single  # no variable says which of the four this process is
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert process_info() == ProcessInfo(rank=3, world_size=4, local_rank=1, local_world_size=4)
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(UsageError, match="RANK=4 is out of range for WORLD_SIZE=4"):
        process_info()
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(UsageError, match="RANK='one'"):
        process_info()


@pytest.mark.parametrize(
    ("variable", "name"),
    [("FSDP", "FSDP1"), ("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron-LM")],
)
def test_a_launcher_that_shards_the_model_otherwise_is_refused(
    variable: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FSDP_VERSION", raising=False)
    monkeypatch.setenv(f"ACCELERATE_USE_{variable}", "true")
    with pytest.raises(UsageError, match=f"accelerate is configured for {name}") as refused:
        preflight.check_distributed(resolve("quickstart").config, "cuda", ProcessInfo(0, 2, 0, 2))
    assert "training.sharding=fsdp engine=plain" in refused.value.hint


def test_several_processes_cannot_share_the_gpu_of_a_mac() -> None:
    with pytest.raises(IdaError, match="cannot share the GPU") as refused:
        preflight.check_distributed(resolve("quickstart").config, "mps", ProcessInfo(0, 2, 0, 2))
    assert refused.value.code is ExitCode.DEVICE_UNUSABLE


# --- vLLM ----------------------------------------------------------------------------------------


def test_vllm_is_refused_without_a_cuda_gpu(ida_tui_here: IdaTui) -> None:
    refused = ida_tui_here("--run", *RUN, "training.use_vllm=true")
    assert refused.code == ExitCode.DEVICE_UNUSABLE
    assert "training.use_vllm needs a CUDA GPU, but this run uses cpu" in refused.err


def test_a_missing_vllm_is_reported_with_its_install_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Leaves only the standard library on the path.
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UsageError, match="vLLM, which is not installed") as refused:
        preflight.require_vllm_installed()
    assert refused.value.hint.startswith("on Linux: uv sync --extra vllm --no-dev")


def test_a_vllm_server_that_does_not_answer_is_reported_with_its_url() -> None:
    with socket.socket() as unused_socket:
        unused_socket.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused_socket.getsockname()[1]}"
        with pytest.raises(IdaError, match=f"no vLLM server responds at {url}") as refused:
            preflight.require_vllm_server(url)
    assert "vllm serve MODEL" in refused.value.hint
