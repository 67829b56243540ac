"""Stopping by signal: with a checkpoint, without waiting for the judge, and immediately the second time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from tests.support.judge_server import Gate, ScriptedJudge
from tests.support.patience import PATIENCE_S
from tests.support.prepared import prepared_python

LONG = (
    "quickstart",
    "evaluation.enabled=false",
    "training.max_steps=500",
    "training.num_generations=4",
    "training.per_device_train_batch_size=8",
    "training.gradient_accumulation_steps=1",
)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prepared_python(), "-m", "ida_tui", "--run", *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OPENAI_API_KEY": "sk-test-0123456789"},
    )


def read_until(run: subprocess.Popen[str], event_type: str, step: int) -> list[dict[str, object]]:
    assert run.stdout is not None
    events = []
    for line in run.stdout:
        events.append(json.loads(line))
        if events[-1]["type"] == event_type and events[-1].get("step") == step:
            return events
    raise AssertionError(f"no {event_type} of step {step}: {run.stderr and run.stderr.read()}")


def kill(run: subprocess.Popen[str]) -> None:
    """Kills the newest quickstart, which `run` started, and waits for its end."""
    pid = owner.owner_pid(RunDirectory(Path("outputs/quickstart/latest").resolve()))
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    run.communicate(timeout=PATIENCE_S)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_a_checkpoint_and_exits_130(number: signal.Signals) -> None:
    run = start(*LONG)
    read_until(run, "StepFinished", 2)

    run.send_signal(number)
    out, err = run.communicate(timeout=PATIENCE_S)

    assert run.returncode == 130, err
    ended = json.loads(out.splitlines()[-1])
    assert (ended["type"], ended["status"], ended["exit_code"]) == ("RunEnded", "interrupted", 130)
    checkpoint = Path("outputs/quickstart/latest/checkpoints") / f"checkpoint-{ended['steps_done']}"
    for name in ("adapter_model.safetensors", "optimizer.pt", "trainer_state.json"):
        assert (checkpoint / name).is_file()
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    assert state["global_step"] == ended["steps_done"]
    assert "Traceback" not in err


def test_a_stop_does_not_wait_for_a_slow_judge() -> None:
    with ScriptedJudge(rule=Gate(0)) as server:  # never answers
        run = start(*LONG, *server.overrides, "judge.timeout_s=3600")
        assert server.wait_for_calls(1)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=PATIENCE_S)

    assert run.returncode == 130, err


def test_a_second_signal_exits_immediately() -> None:
    run = start(*LONG)
    read_until(run, "StepFinished", 1)

    run.send_signal(signal.SIGINT)
    assert run.stderr is not None
    while "Stopping" not in run.stderr.readline():
        pass
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=PATIENCE_S)

    assert run.returncode == 130
