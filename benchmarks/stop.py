"""How fast a run ends when it is asked to, in every phase and by every signal, and what it leaves.

    uv run python benchmarks/stop.py            # about five minutes
    uv run python benchmarks/stop.py --quick    # every phase once, under three minutes
    uv run python benchmarks/stop.py --json stop.json

Real runs of quickstart in processes of their own. Each is asked in the middle of a phase; what counts is the
time until its last event is on the disk, checkpoint included, and the time until its process is gone. A run
that exits with anything but 130, says something else than it should, or has no whole checkpoint of its last
finished step counts as wrong. The last line has the figures against their goals; the exit status is 1 if one
is missed.
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

from benchmarks.goals import Goal, measure, parser  # noqa: E402
from ida_tui.runs.store import checkpoints  # noqa: E402
from tests.engine.test_stopping import LONG, start  # noqa: E402
from tests.support.judge_server import Hold, Judge, ScriptedJudge  # noqa: E402

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COMPLETIONS = 8
"""Of a step of `LONG`: two prompts of four."""


@dataclass(frozen=True)
class Phase:
    """Where a run is asked to stop."""

    name: str
    arguments: tuple[str, ...] = ()
    step: int = 2
    goal_s: float = 2.0
    """The most that it may take until the last event is on the disk."""
    slow_judge: bool = False
    trained: bool = True
    """Whether a step was finished before, so that there has to be a checkpoint."""


PHASES = (
    Phase("load", step=0, goal_s=20.0, trained=False),
    Phase("evaluate", ("evaluation.enabled=true", "evaluation.samples=64"), 0, trained=False),
    Phase("generate", ("training.max_completion_length=96",)),
    Phase("judge", slow_judge=True),
    Phase("reference", ("training.beta=0.04",)),
    Phase("update"),
    Phase("save", ("training.save_steps=1",)),
)


@dataclass(frozen=True)
class Stop:
    """What became of one run."""

    phase: str
    number: str
    ended_s: float
    """From the signal until its last event."""
    gone_s: float
    """From the signal until its process was gone."""
    problem: str


def main() -> int:
    """Measure everything; returns the exit status."""
    options = parser(__doc__).parse_args()
    return measure("stop", [lambda: stops(quick=options.quick), twice], options.json)


def stops(*, quick: bool) -> tuple[list[Goal], dict[str, Any]]:
    """Every phase by every signal; quickly, every phase by one of them."""
    asked = [
        (phase, number)
        for row, phase in enumerate(PHASES)
        for number in ([SIGNALS[row % len(SIGNALS)]] if quick else SIGNALS)
    ]
    found = []
    for phase, number in asked:
        found.append(stop(phase, number))
        one = found[-1]
        mark = "✗" if one.problem else "✓"
        print(
            f"{mark} {one.phase:<9} {one.number:<7} last event after {one.ended_s:5.2f} s,"
            f" gone after {one.gone_s:5.2f} s  {one.problem}",
            flush=True,
        )
    goals = [
        Goal(
            f"asked while {phase.name}",
            max(one.ended_s for one in found if one.phase == phase.name),
            phase.goal_s,
            " s",
        )
        for phase in PHASES
    ]
    goals.append(Goal("stops that went wrong", sum(bool(one.problem) for one in found), 0))
    rows = [[one.phase, one.number, one.ended_s, one.gone_s, one.problem] for one in found]
    return goals, {"stops": rows}


def stop(phase: Phase, number: signal.Signals) -> Stop:
    """Start a run, ask it to stop in the middle of a phase, and look at what it leaves."""
    with _judge(phase) as judged:
        run = start(*LONG, *phase.arguments, *judged)
        events = _lines(run)
        for event in events:
            here = event["type"] == "PhaseChanged" and event["phase"] == phase.name
            if here and event["step"] >= phase.step:
                break
        asked = time.monotonic()
        run.send_signal(number)
        last, ended = event, 0.0
        for event in events:
            last, ended = event, time.monotonic() - asked
        _, talk = run.communicate(timeout=120)
        gone = time.monotonic() - asked
    return Stop(phase.name, number.name, ended, gone, _problem(run, last, talk, phase))


def _problem(run: subprocess.Popen[str], last: dict[str, Any], talk: str, phase: Phase) -> str:
    """What is not as it should be; empty where all is well."""
    if run.returncode != 130:
        return f"exit code {run.returncode}: {talk[-300:]}"
    if (last["type"], last.get("status")) != ("RunEnded", "interrupted"):
        return f"its last event is {last['type']}"
    if "Stopping: saving a checkpoint" not in talk or "Traceback" in talk:
        return f"it said {talk[-300:]}"
    done = last["steps_done"]
    if last["message"] != f"Stopped after step {done} of 500":
        return f"it said {last['message']}"
    if not phase.trained:
        nothing = ("training had not begun", "no step was finished: ida-tui resume begins anew")
        return "" if last["hint"] in nothing else f"it said {last['hint']}"
    place = Path(f"outputs/quickstart/latest/checkpoints/checkpoint-{done}")
    if not isinstance(checkpoints.look(place, thorough=True), checkpoints.Checkpoint):
        return f"{place} is no whole checkpoint"
    return "" if "go on with: ida-tui resume" in last["hint"] else f"it said {last['hint']}"


def twice() -> tuple[list[Goal], dict[str, Any]]:
    """A second request leaves at once, whatever the first one is waiting for."""
    phase = Phase("load", step=0)
    run = start(*LONG)
    events = _lines(run)
    next(e for e in events if e["type"] == "PhaseChanged" and e["phase"] == phase.name)
    run.send_signal(signal.SIGINT)
    assert run.stderr is not None
    while "Stopping" not in run.stderr.readline():
        pass
    asked = time.monotonic()
    run.send_signal(signal.SIGINT)
    run.wait(timeout=60)
    seconds = time.monotonic() - asked
    run.communicate()
    print(f"a second SIGINT while it loads: gone after {seconds:.2f} s, exit code {run.returncode}")
    goals = [
        Goal("a second request", seconds, 0.5, " s"),
        Goal("a second request's exit code is not 130", int(run.returncode != 130), 0),
    ]
    return goals, {"twice_s": seconds}


@contextmanager
def _judge(phase: Phase) -> Iterator[tuple[str, ...]]:
    """A judge that answers for the first step and keeps the second waiting, where the phase needs one."""
    held = threading.Event()
    anchors = 4
    script = [*[Judge()] * (anchors + COMPLETIONS), *[Hold(held)] * 200]
    with ScriptedJudge(script) if phase.slow_judge else nullcontext() as server:
        if server is None:
            yield ()
        else:
            yield "judge=gpt-4o-mini", f"judge.base_url={server.base_url}", "judge.timeout_s=90"
        held.set()


def _lines(run: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert run.stdout is not None
    for line in run.stdout:
        yield json.loads(line)


if __name__ == "__main__":
    sys.exit(main())
