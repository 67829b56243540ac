"""Benchmark of stopping a run: time and checkpoint, for every phase and every signal.

    uv run python benchmarks/stop.py            # about five minutes
    uv run python benchmarks/stop.py --quick    # each phase once, under three minutes
    uv run python benchmarks/stop.py --json stop.json

Real quickstart runs in separate processes get a signal in the middle of a phase. Two times are measured:
until the last event is on disk, including the checkpoint, and until the process has exited. A run counts as
wrong if its exit code is not 130, a message is not the expected one, or there is no valid checkpoint of its
last finished step. The last line compares the figures with their goals; the exit status is 1 if a goal is
missed.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.goals import Goal, build_parser, run_benchmark  # noqa: E402
from ida_tui.runs.store import checkpoints  # noqa: E402
from tests.engine.run.test_stopping import LONG, start  # noqa: E402
from tests.support.judge_server import Hold, Judge, ScriptedJudge  # noqa: E402

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COMPLETIONS = 8
"""Completions of a step of `LONG`: two prompts, four each."""


@dataclass(frozen=True)
class StoppedPhase:
    """A phase in which a run is stopped."""

    name: str
    arguments: tuple[str, ...] = ()
    step: int = 2
    goal_s: float = 2.0
    """Longest allowed time until the last event is on disk, in seconds."""
    slow_judge: bool = False
    has_checkpoint: bool = True
    """Whether a step was finished before, so that there must be a checkpoint."""


PHASES = (
    StoppedPhase("load", step=0, goal_s=20.0, has_checkpoint=False),
    StoppedPhase(
        "evaluate", ("evaluation.enabled=true", "evaluation.samples=64"), 0, has_checkpoint=False
    ),
    StoppedPhase("generate", ("training.max_completion_length=96",)),
    StoppedPhase("judge", slow_judge=True),
    StoppedPhase("reference", ("training.beta=0.04",)),
    StoppedPhase("update"),
    StoppedPhase("save", ("training.save_steps=1",)),
)


@dataclass(frozen=True)
class StopResult:
    """Result of stopping one run."""

    phase: str
    signal_name: str
    ended_s: float
    """Seconds from the signal to the last event."""
    exited_s: float
    """Seconds from the signal to the exit of the process."""
    problem: str


def main() -> int:
    """Run the benchmark; returns the exit status."""
    options = build_parser(__doc__).parse_args()
    return run_benchmark(
        "stop", [lambda: measure_stops(quick=options.quick), measure_second_signal], options.json
    )


def measure_stops(*, quick: bool) -> tuple[list[Goal], dict[str, Any]]:
    """Stop runs in every phase by every signal; with `quick`, by one signal per phase."""
    cases = [
        (phase, number)
        for row, phase in enumerate(PHASES)
        for number in ([SIGNALS[row % len(SIGNALS)]] if quick else SIGNALS)
    ]
    results = []
    for phase, number in cases:
        results.append(stop_run(phase, number))
        result = results[-1]
        mark = "✗" if result.problem else "✓"
        print(
            f"{mark} {result.phase:<9} {result.number:<7} last event after {result.ended_s:5.2f} s,"
            f" exit after {result.exited_s:5.2f} s  {result.problem}",
            flush=True,
        )
    goals = [
        Goal(
            f"stop during {phase.name}",
            max(result.ended_s for result in results if result.phase == phase.name),
            phase.goal_s,
            " s",
        )
        for phase in PHASES
    ]
    goals.append(Goal("wrong stops", sum(bool(result.problem) for result in results), 0))
    rows = [
        [result.phase, result.number, result.ended_s, result.exited_s, result.problem]
        for result in results
    ]
    return goals, {"stops": rows}


def stop_run(phase: StoppedPhase, signal_number: signal.Signals) -> StopResult:
    """Start a run, stop it in the middle of a phase, and check what it leaves behind."""
    with _judge(phase) as judge_arguments:
        run = start(*LONG, *phase.arguments, *judge_arguments)
        events = _lines(run)
        for event in events:
            in_phase = event["type"] == "PhaseChanged" and event["phase"] == phase.name
            if in_phase and event["step"] >= phase.step:
                break
        sent = time.monotonic()
        run.send_signal(signal_number)
        last, ended = event, 0.0
        for event in events:
            last, ended = event, time.monotonic() - sent
        _, output = run.communicate(timeout=120)
        exited = time.monotonic() - sent
    return StopResult(
        phase.name, signal_number.name, ended, exited, _problem(run, last, output, phase)
    )


def _problem(
    run: subprocess.Popen[str], last: dict[str, Any], output: str, phase: StoppedPhase
) -> str:
    """What is wrong with a stopped run; empty if nothing is."""
    if run.returncode != 130:
        return f"exit code {run.returncode}: {output[-300:]}"
    if (last["type"], last.get("status")) != ("RunEnded", "interrupted"):
        return f"the last event is {last['type']}"
    if "Stopping: saving a checkpoint" not in output or "Traceback" in output:
        return f"unexpected output: {output[-300:]}"
    steps_done = last["steps_done"]
    if last["message"] != f"Stopped after step {steps_done} of 500":
        return f"unexpected message: {last['message']}"
    if not phase.has_checkpoint:
        hints = ("Training had not started.", "No step finished; `ida-tui resume` starts over.")
        return "" if last["hint"] in hints else f"unexpected hint: {last['hint']}"
    checkpoint = Path(f"outputs/quickstart/latest/checkpoints/checkpoint-{steps_done}")
    if not isinstance(
        checkpoints.verify_checkpoint(checkpoint, thorough=True), checkpoints.Checkpoint
    ):
        return f"{checkpoint} is not a valid checkpoint"
    return (
        "" if "resume with: ida-tui resume" in last["hint"] else f"unexpected hint: {last['hint']}"
    )


def measure_second_signal() -> tuple[list[Goal], dict[str, Any]]:
    """A second signal exits immediately, whatever the first one waits for."""
    phase = StoppedPhase("load", step=0)
    run = start(*LONG)
    events = _lines(run)
    next(e for e in events if e["type"] == "PhaseChanged" and e["phase"] == phase.name)
    run.send_signal(signal.SIGINT)
    assert run.stderr is not None
    while "Stopping" not in run.stderr.readline():
        pass
    sent = time.monotonic()
    run.send_signal(signal.SIGINT)
    run.wait(timeout=60)
    seconds = time.monotonic() - sent
    run.communicate()
    print(f"second SIGINT during load: exit after {seconds:.2f} s, exit code {run.returncode}")
    goals = [
        Goal("second SIGINT", seconds, 0.5, " s"),
        Goal("second SIGINT with another exit code than 130", int(run.returncode != 130), 0),
    ]
    return goals, {"twice_s": seconds}


@contextmanager
def _judge(phase: StoppedPhase) -> Iterator[tuple[str, ...]]:
    """Arguments for the judge of a phase; a slow judge answers the first step and blocks the second."""
    released = threading.Event()
    anchors = 4
    script = [*[Judge()] * (anchors + COMPLETIONS), *[Hold(released)] * 200]
    with ScriptedJudge(script) if phase.slow_judge else nullcontext() as server:
        if server is None:
            yield ()
        else:
            yield "judge=gpt-4o-mini", f"judge.base_url={server.base_url}", "judge.timeout_s=90"
        released.set()


def _lines(run: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert run.stdout is not None
    for line in run.stdout:
        yield json.loads(line)


if __name__ == "__main__":
    sys.exit(main())
