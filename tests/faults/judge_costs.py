"""A run with a paid judge that is paused, killed and resumed until it ends, and what it reports to have cost.

    python -m tests.faults.judge_costs    # prints the figures as JSON

The judge's server counts the usage of every reply that it sends, and one call in five fails in some way.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from ida_tui.events.types import RunEnded, RunPaused
from ida_tui.runs.catalog.read_summary import read_summary
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import read_events
from ida_tui.runs.run import Run
from tests.faults.kill import fork_run, newest_run, prepare, wait_for_exit
from tests.support.judge_server import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    Behavior,
    Filtered,
    Hold,
    Judge,
    Refusal,
    Reset,
    ScriptedJudge,
    Status,
    Text,
)
from tests.support.patience import PATIENCE_S

PRICE = {"input": 10, "output": 40}
"""US dollars per million tokens."""
CALL_COST = (INPUT_TOKENS * PRICE["input"] + OUTPUT_TOKENS * PRICE["output"]) / 1e6
REJECTED_CALLS = (5, 12, 38)
"""Numbers of the calls whose key is rejected, which pauses the run."""
BUDGETS = ("0.30", "0.60", "9")
SLOTS = 4


@dataclass
class CountingServer:
    """Decides how each call is answered, and counts the replies that have a usage."""

    calls: int = 0
    charged: int = 0
    held: int = 0
    hold_from: int | None = 22
    """The first call that is held until `release`; None holds none."""
    release: threading.Event = field(default_factory=threading.Event)
    failures: Iterator[Behavior] = field(
        default_factory=lambda: cycle([Status(500), Text("not JSON"), Reset(), Refusal()])
    )

    def behavior(self, body: Mapping[str, Any]) -> Behavior:
        """The behavior of the next call; the server's lock is held."""
        self.calls += 1
        answer: Behavior = Judge()
        if self.calls in REJECTED_CALLS:
            answer = Status(401)
        elif self.calls % 5 == 0:
            answer = next(self.failures)
        if self.hold_from is not None and self.calls >= self.hold_from:
            answer, self.held = Hold(self.release), self.held + 1
        self.charged += isinstance(answer, Judge | Text | Refusal | Filtered | Hold)
        return answer


def profile(judge: ScriptedJudge) -> tuple[str, ...]:
    """The command line of the run, without its budget."""
    return (
        "--run", "quickstart", "training.max_steps=8", "training.num_generations=4",
        "training.per_device_train_batch_size=8", "training.gradient_accumulation_steps=1",
        "evaluation.enabled=false", "report=false",
        "judge.kind=openai", "judge.model=scripted", f"judge.base_url={judge.base_url}",
        "judge.api_key_env=null", f"judge.concurrency={SLOTS}", "judge.anchor_every=0",
        f"judge.price={json.dumps(PRICE)}", "training.save_steps=1",
    )  # fmt: skip


def wait_or_kill(child: int, when: Callable[[], bool]) -> int:
    """The exit code of a process, which is stopped and killed as soon as `when` returns true."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if when():
            os.kill(child, signal.SIGSTOP)
            if when():
                break
            os.kill(child, signal.SIGCONT)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return wait_for_exit(child)


def open_calls() -> int:
    """Number of calls that were sent and have no recorded reply."""
    run = newest_run()
    lines = (run / "judge-costs.jsonl").read_bytes() if run else b""
    return lines.count(b'"max"') - lines.count(b'"cost"')


def updates_of(run: Path | None) -> int:
    """Number of updates that a run has begun."""
    return 0 if run is None else (run / "events.jsonl").read_bytes().count(b'"phase": "update"')


def has_more_updates(count: int) -> bool:
    """Whether the run has begun more updates than this: no verdict is missing then."""
    return updates_of(newest_run()) > count


def check() -> dict[str, Any]:
    """Run until the end, and return what the run and the server say about it."""
    prepare()
    server = CountingServer()
    budgets = iter(BUDGETS)
    budget = next(budgets)
    kills, over_budget, command = 0, 0.0, ()
    with ScriptedJudge(rule=server.behavior, delay_s=0.005) as judge:
        command = (*profile(judge), f"budget={budget}")
        code = None
        while code != 0:
            if kills == 0:
                code = wait_or_kill(fork_run(*command), lambda: 0 < server.held == open_calls())
            elif kills == 1:
                code = wait_or_kill(
                    fork_run(*command), partial(has_more_updates, updates_of(newest_run()) + 1)
                )
            else:
                code = wait_for_exit(fork_run(*command))
            if code == -signal.SIGKILL:
                kills += 1
                server.hold_from = None
                server.release.set()
            elif code not in (0, 3):
                raise SystemExit(f"the run ended with exit code {code}: {command}")
            over_budget = max(over_budget, server.charged * CALL_COST - float(budget))
            run = newest_run()
            assert run is not None
            if code == 3 and "budget" in pauses(run)[-1]:
                budget = next(budgets)
            command = ("resume", str(run), f"budget={budget}")
    run = newest_run()
    assert run is not None
    ended = [r.event for r in read_events(run / "events.jsonl") if isinstance(r.event, RunEnded)]
    directory = RunDirectory(run)
    return {
        "pauses": len(pauses(run)),
        "kills": kills,
        "calls": server.calls,
        "charged": server.charged * CALL_COST,
        "ended": ended[-1].cost,
        "held": server.held,
        "estimated": ended[-1].judge_cost and ended[-1].judge_cost.estimated,
        "runs": read_summary(directory).cost,
        "report": Run.load(directory).judge_cost.cost,
        "over_budget": over_budget,
        "call": CALL_COST,
    }


def pauses(run: Path) -> list[str]:
    """The reasons of a run's pauses."""
    events = [record.event for record in read_events(run / "events.jsonl")]
    return [event.reason for event in events if isinstance(event, RunPaused)]


def main() -> int:
    """Print the figures as JSON."""
    with tempfile.TemporaryDirectory(prefix="ida-tui-costs-") as folder:
        os.environ["IDA_TUI_CACHE_DIR"] = f"{folder}/cache"
        os.chdir(folder)
        print(json.dumps(check()))
        os.chdir("/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
