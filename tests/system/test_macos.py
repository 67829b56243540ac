"""What is done for Macs beside the device: kept awake, and told why a run is gone. Simulated on Linux."""

from __future__ import annotations

import os
import signal
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
from tests.engine.test_stopping import LONG, read_until, start

GB = 10**9


def test_a_mac_is_kept_awake_for_the_life_of_the_run_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "caffeinate"
    program.write_text('#!/bin/sh\necho "$@" > "$0.asked"\nexec sleep 60\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "platform", "darwin")
    with prevent_sleep() as arranged:
        assert arranged
        child = psutil.Process().children()[-1]
        while not (asked := tmp_path / "caffeinate.asked").exists() or not asked.read_text():
            assert child.is_running()
    assert asked.read_text().split() == ["-i", "-s", "-w", str(os.getpid())]
    assert not child.is_running()


def test_elsewhere_nothing_is_started() -> None:
    with prevent_sleep() as arranged:
        assert not arranged


# --- a run that vanished --------------------------------------------------------------------


def last(used: float, *, swap: float = 0, pressure: int | None = None) -> RunState:
    sample = MemorySampled(int(used * GB), 48 * GB, 20 * GB, None, None, int(swap * GB), pressure)
    return replace(RunState(), memory=sample)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            last(46, pressure=2),
            "macOS probably killed it to free memory: 46.0 of 48.0 GB were in use",
        ),
        (
            last(30, pressure=4),
            "macOS probably killed it to free memory: 30.0 of 48.0 GB were in use",
        ),
        (last(30, swap=3, pressure=1), "macOS probably killed it to free memory"),
        (last(47), "the system probably killed it to free memory"),
        (last(20, pressure=1), "it was killed, or crashed in a library"),
        (RunState(), "it was killed, or crashed in a library"),
    ],
)
def test_the_last_sample_tells_why_a_run_is_gone(state: RunState, said: str) -> None:
    assert likely_cause(state).startswith(said)


def test_a_machine_that_was_started_since_the_last_event_is_named_as_the_cause() -> None:
    state = replace(last(47), updated_at="2026-01-31T01:02:03.004Z")
    then = datetime.fromisoformat(state.updated_at).timestamp()
    assert likely_cause(state, lambda: then + 1).startswith("the machine has restarted since")
    assert likely_cause(state, lambda: then - 1).startswith("the system probably killed it")


def test_sleep_is_told_from_time_that_passed_awake_and_from_a_corrected_clock() -> None:
    now = {"wall": 1000.0, "running": 5.0}
    sleep = SleepDetector(lambda: now["wall"], lambda: now["running"])
    looks = []
    for asleep in (0.0, 720.0, 0.0, 2.0, -3600.0):
        now["running"] += 100
        now["wall"] += 100 + asleep
        looks.append(sleep.seconds_slept())
    assert looks == [0, 720, 0, 0, 0]


def test_going_on_with_a_run_that_was_killed_says_so_and_what_is_safe(ida_tui_here: Any) -> None:
    run = start(*LONG, "training.save_steps=1")
    read_until(run, "CheckpointSaved", 2)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    done = ida_tui_here("resume", "quickstart", "training.max_steps=3")
    assert done.code == 0, done.err
    assert "! the run died: " in done.err
    assert "is saved on disk; resuming from there" in done.err


# --- the GPU's watchdog ---------------------------------------------------------------------

ABORTED = (
    "Command buffer execution failed: Impacting Interactivity"
    " (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)"
)


def test_a_command_that_macos_ends_is_answered_with_a_smaller_batch_and_a_checkpoint(
    ida_tui_here: Any,
) -> None:
    step = InstrumentedGRPOTrainer.training_step

    def aborted(trainer: InstrumentedGRPOTrainer, *arguments: Any, **named: Any) -> Any:
        if trainer.state.global_step == 1:
            raise RuntimeError(ABORTED)
        return step(trainer, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InstrumentedGRPOTrainer, "training_step", aborted)
        done = ida_tui_here("--run", *LONG)
    assert done.code == 5
    assert "macOS ended a GPU command because it kept the screen waiting" in done.out
    command = next(line for line in done.out.splitlines() if "ida-tui resume" in line)
    smaller = "training.per_device_train_batch_size=4 training.gradient_accumulation_steps=2"
    assert command.endswith(smaller)

    arguments = command.split("ida-tui ")[1].split()
    assert ida_tui_here(*arguments, "training.max_steps=3").code == 0


def test_the_smallest_batch_has_no_smaller_one() -> None:
    one = resolve("oblit-1-mps", ["training.per_device_train_batch_size=1"]).config
    assert smaller_batch_overrides(one) == ""
    assert not stopped_by_watchdog(RuntimeError("shape mismatch"))
