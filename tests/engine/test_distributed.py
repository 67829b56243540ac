"""Several processes train one profile: the same weights as one, a rank that dies, a stop, who may watch."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from ida_tui.config.resolve import resolve
from ida_tui.config.schema import TrainingConfig
from ida_tui.engine.distributed.environment import ProcessInfo, process_info, split_batch
from ida_tui.engine.run import preflight
from ida_tui.errors import ExitCode, IdaError, UsageError
from tests.conftest import IdaTui

STEPS = 5
RUN = (
    "quickstart", f"training.max_steps={STEPS}", "evaluation.enabled=false",
    "training.max_completion_length=32",
)  # fmt: skip
ADAPTER = "adapter_model.safetensors"
# Sums in another order: about 2e-6 after six steps of the quickstart.
TOLERANCE = 1e-4
Events = list[dict[str, Any]]


@contextmanager
def together(*arguments: str, where: Path) -> Iterator[subprocess.Popen[str]]:
    """`torchrun` with two processes in the background, its stdout a pipe of events."""
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", "2", "-m", "ida_tui", *arguments),
        ],
        cwd=where,
        stdout=subprocess.PIPE,
        stderr=(where / "talk.txt").open("a"),
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as running:
        try:
            yield running
        finally:
            if running.poll() is None:
                for child in psutil.Process(running.pid).children(recursive=True):
                    child.kill()
                running.kill()


def read(
    running: subprocess.Popen[str], until: Callable[[dict[str, Any]], bool] | None = None
) -> Events:
    """The events up to the one that is waited for, or to the end."""
    assert running.stdout is not None
    found = []
    for line in running.stdout:
        found.append(json.loads(line))
        if until is not None and until(found[-1]):
            break
    return found


def of_type(events: Events, name: str) -> Events:
    return [event for event in events if event["type"] == name]


def step(number: int) -> Callable[[dict[str, Any]], bool]:
    return lambda event: event["type"] == "StepFinished" and event["step"] == number


def rank(running: subprocess.Popen[str], number: int) -> psutil.Process:
    """The process of this rank."""
    children = psutil.Process(running.pid).children(recursive=True)
    return next(child for child in children if child.environ().get("RANK") == str(number))


def latest(where: Path) -> Path:
    return (where / "outputs" / "quickstart" / "latest").resolve()


def distance(one: Path, other: Path) -> float:
    """How far two adapters are apart, relative to the first one (L2)."""
    from safetensors.torch import load_file

    ours, theirs = (load_file(folder / "adapter" / ADAPTER) for folder in (one, other))
    assert ours.keys() == theirs.keys()
    apart = sum(float((ours[name] - theirs[name]).square().sum()) for name in ours)
    return (apart / sum(float(tensor.square().sum()) for tensor in ours.values())) ** 0.5


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Events]:
    """The run of one process: its directory and its events."""
    where = tmp_path_factory.mktemp("alone")
    done = subprocess.run(
        [sys.executable, "-m", "ida_tui", "--run", *RUN, "--json"],
        cwd=where,
        capture_output=True,
        text=True,
        timeout=280,
        check=True,
    )
    return latest(where), [json.loads(line) for line in done.stdout.splitlines()]


def texts(events: Events) -> dict[tuple[int, int, int], str]:
    finished = of_type(events, "CompletionFinished")
    return {(one["step"], one["group"], one["index"]): one["text"] for one in finished}


# --- the same training ------------------------------------------------------------------------


def test_two_processes_sample_and_learn_what_one_does_while_somebody_watches(
    alone: tuple[Path, Events],
) -> None:
    here = Path.cwd()
    with together("run", *RUN, "--json", where=here) as running:
        events = read(running, step(1))
        watching = subprocess.Popen(
            [sys.executable, "-m", "ida_tui", "attach", "quickstart", "--json"],
            stdout=subprocess.PIPE,
            text=True,
        )
        events += read(running)
        assert running.wait() == 0, (here / "talk.txt").read_text()
    seen = watching.communicate(timeout=60)[0]

    assert watching.returncode == 0
    assert [json.loads(line) for line in seen.splitlines()] == events
    assert of_type(events, "RunStarted")[0]["processes"] == 2
    assert of_type(events, "RunStarted")[0]["completions_per_step"] == 64
    assert texts(events) == texts(alone[1])
    scored = [one["advantage"] for one in of_type(events, "CompletionScored")]
    expected = [one["advantage"] for one in of_type(alone[1], "CompletionScored")]
    assert scored == pytest.approx(expected, abs=1e-4)
    assert distance(alone[0], latest(here)) < TOLERANCE
    for ours, theirs in zip(
        of_type(events, "StepFinished"), of_type(alone[1], "StepFinished"), strict=True
    ):
        assert ours["r_ida"] == pytest.approx(theirs["r_ida"])
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
        tokens = [tokens for *_, tokens, _ in ours["ranks"]]
        sampled = [one["tokens"] for one in of_type(events, "CompletionFinished")
                   if one["step"] == ours["step"]]  # fmt: skip
        assert tokens == [sum(sampled[:32]), sum(sampled[32:])]
        assert all(held > 1e8 for _, held, *_ in ours["ranks"])


def test_a_run_that_is_stopped_and_then_loses_a_rank_is_ended_by_one_process_with_the_same_weights(
    alone: tuple[Path, Events], ida_tui: IdaTui
) -> None:
    here = Path.cwd()
    with together("run", *RUN, "--json", where=here) as running:
        read(running, step(1))
        running.send_signal(signal.SIGTERM)
        stopped = read(running)[-1]
    assert (stopped["status"], stopped["exit_code"]) == ("interrupted", ExitCode.INTERRUPTED)
    assert 1 <= stopped["steps_done"] < STEPS - 1
    assert "checkpoint:" in stopped["hint"]

    with together("resume", "quickstart", "--json", where=here) as running:
        read(running, step(stopped["steps_done"] + 1))
        rank(running, 1).kill()
        died = read(running)[-1]
        assert running.wait() != 0
    assert (died["status"], died["exit_code"]) == ("failed", ExitCode.FAILED)
    assert died["message"].startswith("process 2 of 2 (rank 1) ended: killed")
    assert stopped["steps_done"] < died["steps_done"] < STEPS
    assert re.search(rf"ida-tui resume \S+/{latest(here).name}$", died["hint"], re.MULTILINE)

    gone_on = ida_tui("resume", "quickstart", "--json")
    assert gone_on.code == 0, gone_on.err
    assert of_type(gone_on.events, "RunResumed")[0]["from_step"] == died["steps_done"]
    assert distance(alone[0], latest(here)) < TOLERANCE


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
def test_a_step_keeps_its_completions_however_many_processes_share_it(
    batch: int, passes: int, world: int, expected: tuple[int, int]
) -> None:
    whole = TrainingConfig(per_device_train_batch_size=batch, gradient_accumulation_steps=passes)
    part = split_batch(whole, world)
    assert (part.per_device_train_batch_size, part.gradient_accumulation_steps) == expected
    assert part.completions_per_step * world == whole.completions_per_step


def test_a_step_that_cannot_be_divided_names_the_numbers_of_processes_that_fit(
    ida_tui_here: IdaTui,
) -> None:
    refused = ida_tui_here("--run", *RUN, RANK="0", WORLD_SIZE="3", LOCAL_RANK="0")
    assert refused.code == ExitCode.USAGE
    assert "64 completions per step cannot be divided evenly among 3 processes" in refused.err
    assert "use 1 or 2 or 4 processes" in refused.err
    more = re.search(r"gradient_accumulation_steps=(\d+)", refused.err)
    assert more is not None
    assert split_batch(TrainingConfig(per_device_train_batch_size=64,
                                 gradient_accumulation_steps=int(more[1])), 3)  # fmt: skip
    assert not Path("outputs").exists()


@pytest.mark.parametrize("words", [(), ("runs",), ("--run", "quickstart", "--detach")])
def test_several_processes_are_for_runs_in_the_foreground(
    words: tuple[str, ...], ida_tui_here: IdaTui
) -> None:
    refused = ida_tui_here(*words, RANK="0", WORLD_SIZE="2")
    assert refused.code == ExitCode.USAGE
    assert "2 processes can only train or resume a run" in refused.err


def test_what_a_launcher_sets_is_read_and_nonsense_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert process_info().is_single
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert process_info().is_single  # nobody says which of the four this is
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert process_info() == ProcessInfo(rank=3, world_size=4, local_rank=1, local_world_size=4)
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(UsageError, match="RANK=4 is out of range for WORLD_SIZE=4"):
        process_info()
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(UsageError, match="RANK='one'"):
        process_info()


@pytest.mark.parametrize("name", ["FSDP", "DeepSpeed"])
def test_a_launcher_that_would_divide_the_model_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name.upper()}", "true")
    with pytest.raises(UsageError, match=f"accelerate is configured for {name}"):
        preflight.check_distributed(resolve("quickstart").config, "cuda", ProcessInfo(0, 2, 0, 2))


def test_a_macs_gpu_is_not_shared() -> None:
    with pytest.raises(IdaError, match="cannot share the GPU") as refused:
        preflight.check_distributed(resolve("quickstart").config, "mps", ProcessInfo(0, 2, 0, 2))
    assert refused.value.code is ExitCode.DEVICE_UNUSABLE


# --- vLLM ----------------------------------------------------------------------------------------


def test_vllm_is_refused_where_there_is_no_cuda_gpu(ida_tui_here: IdaTui) -> None:
    refused = ida_tui_here("--run", *RUN, "engine=plain", "training.use_vllm=true")
    assert refused.code == ExitCode.DEVICE_UNUSABLE
    assert "training.use_vllm needs a CUDA GPU, but this run uses cpu" in refused.err


def test_vllm_is_refused_with_the_fast_engine(ida_tui_here: IdaTui) -> None:
    refused = ida_tui_here("--run", *RUN, "training.use_vllm=true")
    assert refused.code == ExitCode.USAGE
    assert "set engine to plain" in refused.err


def test_a_missing_vllm_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Only the standard library is left to look in.
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UsageError, match="vLLM, which is not installed") as refused:
        preflight.require_vllm_installed()
    assert refused.value.hint.startswith("uv pip install 'vllm>=0.22,<=0.31'")


def test_a_vllm_server_that_does_not_answer_is_named() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(IdaError, match=f"no vLLM server responds at {url}") as refused:
            preflight.require_vllm_server(url)
    assert "vllm serve MODEL" in refused.value.hint
