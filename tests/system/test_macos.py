"""Support for Macs, simulated on Linux: sleep prevention, causes of a dead run, the GPU watchdog."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from ida_tui.config.resolve import resolve
from ida_tui.engine.run.outcome import smaller_batch_overrides, stopped_by_watchdog
from ida_tui.engine.trainer.trainer import InstrumentedGRPOTrainer
from ida_tui.events.state import RunState
from ida_tui.events.types import MemorySampled
from ida_tui.runs.postmortem import likely_cause
from ida_tui.system.sleep import SleepDetector, prevent_sleep
from tests.engine.run.test_control import STEP_CALLS
from tests.engine.run.test_stopping import LONG, kill, read_until, start
from tests.support.judge_server import Gate, ScriptedJudge

GB = 10**9


def test_a_mac_is_prevented_from_sleeping_only_while_a_run_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "caffeinate"
    program.write_text('#!/bin/sh\necho "$@" > "$0.asked"\nexec sleep 60\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "platform", "darwin")
    others = set(psutil.Process().children())
    with prevent_sleep() as active:
        assert active
        (child,) = set(psutil.Process().children()) - others
        while not (recorded := tmp_path / "caffeinate.asked").exists() or not recorded.read_text():
            assert child.is_running()
    assert recorded.read_text().split() == ["-i", "-s", "-w", str(os.getpid())]
    assert not child.is_running()


def test_sleep_prevention_starts_no_process_on_other_systems() -> None:
    with prevent_sleep() as active:
        assert not active


# --- a run that died --------------------------------------------------------------------


def state_with_memory(used: float, *, swap: float = 0, pressure: int | None = None) -> RunState:
    sample = MemorySampled(int(used * GB), 48 * GB, 20 * GB, None, None, int(swap * GB), pressure)
    return replace(RunState(), memory=sample)


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        (
            state_with_memory(46, pressure=2),
            "macOS probably killed it to free memory: 46.0 of 48.0 GB were in use",
        ),
        (
            state_with_memory(30, pressure=4),
            "macOS probably killed it to free memory: 30.0 of 48.0 GB were in use",
        ),
        (state_with_memory(30, swap=3, pressure=1), "macOS probably killed it to free memory"),
        (state_with_memory(47), "the system probably killed it to free memory"),
        (state_with_memory(20, pressure=1), "it was killed, or crashed in a library"),
        (RunState(), "it was killed, or crashed in a library"),
    ],
)
def test_the_last_memory_sample_gives_the_likely_cause_of_a_dead_run(
    state: RunState, cause: str
) -> None:
    assert likely_cause(state).startswith(cause)


def test_a_restart_of_the_machine_after_the_last_event_is_named_as_the_cause() -> None:
    state = replace(state_with_memory(47), updated_at="2026-01-31T01:02:03.004Z")
    last_event = datetime.fromisoformat(state.updated_at).timestamp()
    assert likely_cause(state, lambda: last_event + 1).startswith("the machine has restarted since")
    assert likely_cause(state, lambda: last_event - 1).startswith("the system probably killed it")


def test_sleep_is_distinguished_from_time_awake_and_from_clock_corrections() -> None:
    clocks = {"wall": 1000.0, "running": 5.0}
    sleep = SleepDetector(lambda: clocks["wall"], lambda: clocks["running"])
    measured = []
    for asleep in (0.0, 720.0, 0.0, 2.0, -3600.0):
        clocks["running"] += 100
        clocks["wall"] += 100 + asleep
        measured.append(sleep.seconds_slept())
    assert measured == [0, 720, 0, 0, 0]


def test_resuming_a_killed_run_reports_its_death_and_the_saved_step(ida_tui_here: Any) -> None:
    with ScriptedJudge(rule=Gate(2 * STEP_CALLS)) as judge:
        run = start(*LONG, "training.save_steps=1", *judge.overrides)
        read_until(run, "CheckpointSaved", 2)
        kill(run)
    result = ida_tui_here("resume", "quickstart", "judge=offline", "training.max_steps=3")
    assert result.code == 0, result.err
    assert "! the run died: " in result.err
    assert "is saved on disk; resuming after it" in result.err


# --- the GPU's watchdog ---------------------------------------------------------------------

ABORTED = (
    "Command buffer execution failed: Impacting Interactivity"
    " (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)"
)


def test_a_gpu_command_ended_by_macos_saves_a_checkpoint_and_suggests_a_smaller_batch(
    ida_tui_here: Any,
) -> None:
    training_step = InstrumentedGRPOTrainer.training_step

    def aborted(trainer: InstrumentedGRPOTrainer, *arguments: Any, **options: Any) -> Any:
        if trainer.state.global_step == 1:
            raise RuntimeError(ABORTED)
        return training_step(trainer, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InstrumentedGRPOTrainer, "training_step", aborted)
        result = ida_tui_here("--run", *LONG)
    assert result.code == 5
    assert "macOS ended a GPU command because it blocked the display for too long" in result.out
    command = next(line for line in result.out.splitlines() if "ida-tui resume" in line)
    smaller = "training.per_device_train_batch_size=4 training.gradient_accumulation_steps=2"
    assert command.endswith(smaller)

    arguments = command.split("ida-tui ")[1].split()
    assert ida_tui_here(*arguments, "training.max_steps=3").code == 0


def test_no_smaller_batch_is_suggested_for_a_batch_of_one() -> None:
    config = resolve("oblit-1-mps", ["training.per_device_train_batch_size=1"]).config
    assert smaller_batch_overrides(config) == ""
    assert not stopped_by_watchdog(RuntimeError("shape mismatch"))
