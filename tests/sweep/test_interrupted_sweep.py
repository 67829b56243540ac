"""A sweep in processes of its own that is killed, stopped and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ida_tui.errors import ExitCode
from ida_tui.events import types as ev
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import read_events
from ida_tui.sweep import directory
from ida_tui.sweep.status import SweepReader
from tests.support.judge_server import Gate, ScriptedJudge
from tests.support.patience import PATIENCE_S

SMALL = (
    "training.learning_rate=1e-3,2e-3", "seed=0,1", "training.max_steps=2", "training.save_steps=1",
    "evaluation.enabled=false", "training.max_completion_length=16",
)  # fmt: skip
STEP_CALLS = 64
"""Calls to the judge in a step."""


def start_sweep(*arguments: str) -> subprocess.Popen[str]:
    """Start `ida-tui sweep` in a separate process, which can be killed."""
    return subprocess.Popen(
        [sys.executable, "-m", "ida_tui", "sweep", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_event(content: str, number: int) -> RunDirectory:
    """The run of a combination, after this text is in its event log."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for path in directory.list_directories(Path("outputs")):
            run = SweepReader(directory.read(path)).read_one(number).run
            if run is not None and content in RunDirectory(run).events.read_text():
                return RunDirectory(run)
        time.sleep(0.02)
    raise AssertionError(f"no {content} of run {number + 1} in {PATIENCE_S:g} s")


def kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.fixture
def gate() -> Gate:
    """Lets the first step of the first run pass."""
    return Gate(STEP_CALLS)


@pytest.fixture
def judge(gate: Gate) -> Iterator[ScriptedJudge]:
    """A judge at which runs wait until the gate lets them pass."""
    with ScriptedJudge(rule=gate) as judge:
        yield judge


def test_a_sweep_that_is_killed_and_stopped_resumes_and_ends_with_its_table(
    judge: ScriptedJudge, gate: Gate, ida_tui_here: Any
) -> None:
    # The sweep and its run, which has a checkpoint, are killed.
    sweep = start_sweep("quickstart", *SMALL, *judge.overrides)
    killed_run = wait_for_event('"CheckpointSaved"', 0)
    child = owner.owner_pid(killed_run)
    assert child is not None
    kill(sweep)
    os.kill(child, signal.SIGKILL)

    # Only the sweep is killed: its run continues, and the resumed sweep waits for that run.
    gate.allow(STEP_CALLS)  # the second step of the first run
    sweep = start_sweep("--resume", "quickstart")
    wait_for_event('"RunStarted"', 1)
    kill(sweep)
    sweep = start_sweep("--resume")
    assert sweep.stdout is not None
    waiting = next(line for line in sweep.stdout if line.startswith("● 2/4"))
    assert "still running from an interrupted sweep" in waiting
    # The sweep is stopped: its run saves a checkpoint first.
    gate.allow(3 * STEP_CALLS)  # the second run, and the first step of the third
    wait_for_event('"CheckpointSaved"', 2)
    sweep.terminate()
    output = sweep.stdout.read()
    assert sweep.wait() == ExitCode.INTERRUPTED
    assert "‖ 3/4 learning_rate=1e-3 seed=1 stopped at step" in output
    assert (
        "! Stopped; 2 of 4 runs done. Resume with: ida-tui sweep --resume outputs/sweeps/" in output
    )

    gate.open()
    result = ida_tui_here("sweep", "--resume", "--json")

    assert result.code == ExitCode.DONE, result.err
    table = json.loads(result.out)
    assert [(row["done"], row["runs"]) for row in table["settings"]] == [(2, 2), (2, 2)]
    assert table["best"]["seeds"] == 2
    # No combination has two runs, and the killed run was resumed in its own directory.
    runs = {run["run"] for row in table["settings"] for run in row["each"]}
    existing = {
        str(path.parent.resolve()) for path in Path("outputs/quickstart").glob("2*/events.jsonl")
    }
    assert existing == runs
    assert len(runs) == 4
    assert str(killed_run.path) in runs
    resumed = [
        sum(
            isinstance(record.event, ev.RunResumed)
            for record in read_events(Path(run) / "events.jsonl")
        )
        for run in sorted(runs)
    ]
    assert resumed == [1, 0, 1, 0]
