"""Quickstart runs killed with SIGKILL at random moments, resumed, and compared with an uninterrupted run.

    python -m tests.faults.kill --moments 60      # some minutes; prints a summary
    uv run pytest tests/faults                    # a few moments, in CI

A resumed run must end with the same weights as an uninterrupted run, byte for byte, and with every step and
completion in its files exactly once. Every run is a fork of one process that has imported all libraries, so
that each run takes only seconds.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ida_tui.config.resolve import resolve
from ida_tui.events.state import fold_all
from ida_tui.runs.log.reader import read_events
from tests.support.patience import PATIENCE_S

STEPS = 6
PROMPT_IDS = [prompt.id for prompt in resolve("quickstart").config.prompts.train()[:24]]
"""Prompts for three steps, so that some runs resume in their second epoch."""
RUN = (
    "--run", "quickstart", f"training.max_steps={STEPS}", "training.save_steps=2",
    f"prompts.only={json.dumps(PROMPT_IDS)}",
    "evaluation.samples=1", "evaluation.batch_size=30",
)  # fmt: skip
WEIGHTS = "adapter/adapter_model.safetensors"


@dataclass(frozen=True)
class Moment:
    """When a run is killed: this long after the event with this number is on disk."""

    seq: int
    delay_s: float


@dataclass(frozen=True)
class KilledRun:
    """Result of one killed run."""

    moment: Moment
    phase: str
    """Phase of the run at its last event."""
    resumed_from: int
    """The step from which it was resumed."""
    problem: str = ""


def fork_run(*arguments: str) -> int:
    """Run `ida-tui` with these arguments in a fork of this process and return its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(os.open("child.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        from ida_tui.cli.main import main

        code = main(arguments)
    finally:
        os._exit(code)


def wait_for_exit(child: int) -> int:
    """Wait for a child process and return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def prepare() -> None:
    """Import what a run imports, without starting a thread, because a fork loses threads."""
    from ida_tui.engine import libraries

    libraries.set_library_defaults(Path())
    for name in ("run.loop", "run.build", "device.device", "run.evaluation", "run.preflight"):
        importlib.import_module(f"ida_tui.engine.{name}")


def newest_run() -> Path | None:
    """Directory of the newest run, if its first event is on disk."""
    link = Path("outputs/quickstart/latest")
    return link.resolve() if (link / "events.jsonl").exists() else None


def kill_at(moment: Moment) -> bool:
    """Start a run and kill it; returns False if the run ended before that."""
    child = fork_run(*RUN)
    deadline = time.monotonic() + PATIENCE_S
    while _last_seq() < moment.seq and time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.001)
    time.sleep(moment.delay_s)
    os.kill(child, signal.SIGKILL)
    return wait_for_exit(child) == -signal.SIGKILL


def _last_seq() -> int:
    run = newest_run()
    return -1 if run is None else (run / "events.jsonl").read_bytes().count(b"\n") - 1


def resume_and_compare(run: Path, reference: Path, moment: Moment) -> KilledRun:
    """Resume a killed run to its end and compare it with an uninterrupted run."""
    records = list(read_events(run / "events.jsonl"))
    phase = next((r.event.phase for r in reversed(records) if hasattr(r.event, "phase")), "load")
    status = wait_for_exit(fork_run("resume", str(run)))
    after = list(read_events(run / "events.jsonl"))
    resumed = [r.event.from_step for r in after if type(r.event).__name__ == "RunResumed"]
    killed = KilledRun(moment, phase, resumed[-1] if resumed else 0)
    return KilledRun(moment, phase, killed.resumed_from, _problem(run, reference, status))


def _problem(run: Path, reference: Path, status: int) -> str:
    if status != 0:
        return f"it was resumed with exit code {status}"
    if (run / WEIGHTS).read_bytes() != (reference / WEIGHTS).read_bytes():
        return "its weights differ"
    records = list(read_events(run / "events.jsonl"))
    if [record.seq for record in records] != list(range(len(records))):
        return "its events are not numbered consecutively"
    state, expected = fold_all(records), fold_all(read_events(reference / "events.jsonl"))
    figures = [
        [(s.step, s.loss, s.reward, s.weight_delta, s.model_change) for s in run_state.steps]
        for run_state in (state, expected)
    ]
    if figures[0] != figures[1]:
        return f"its steps are {[step for step, *_ in figures[0]]}, or their figures differ"
    return "" if _completions(run) == _completions(reference) else "its completions differ"


def _completions(run: Path) -> list[tuple[int, int, int, str, float]]:
    rows = map(json.loads, (run / "completions.jsonl").read_text().splitlines())
    return [(r["step"], r["group"], r["index"], r["text"], r["reward"]) for r in rows]


def moments(reference: Path, seed: int) -> Iterator[Moment]:
    """An endless series of moments: a third while the run saves, the rest at any event."""
    records = list(read_events(reference / "events.jsonl"))
    saving = [r.seq for r in records if getattr(r.event, "phase", "") == "save"]
    rng = random.Random(seed)
    for number in itertools.count():
        seqs = saving if number % 3 == 0 else range(len(records) - 1)
        yield Moment(rng.choice(seqs), rng.uniform(0, 0.06))


def check(count: int, seed: int) -> list[KilledRun]:
    """Kill `count` runs in the working directory and return the result of each.

    A run that ended before its moment does not count, and another run is started.
    """
    prepare()
    home = Path.cwd()
    (home / "never-killed").mkdir()
    os.chdir(home / "never-killed")
    status = wait_for_exit(fork_run(*RUN))
    assert status == 0, f"the uninterrupted run ended with exit code {status}"
    reference = newest_run()
    assert reference is not None
    results = []
    for number, moment in enumerate(moments(reference, seed)):
        if len(results) == count:
            break
        folder = home / f"killed-{number}"
        folder.mkdir()
        os.chdir(folder)
        if not kill_at(moment):
            continue
        run = newest_run()
        if run is None or '"RunEnded"' in (run / "events.jsonl").read_text():
            continue  # the run had not started, or had ended
        results.append(resume_and_compare(run, reference, moment))
        print(f"{len(results)} of {count}: {results[-1]}", file=sys.stderr, flush=True)
    os.chdir(home)
    return results


def main() -> int:
    """Kill runs and print the results; returns 1 if a run differs from the uninterrupted run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ida-tui-kill-") as folder:
        os.environ["IDA_TUI_CACHE_DIR"] = f"{folder}/cache"
        os.chdir(folder)
        started = time.monotonic()
        results = check(options.moments, options.seed)
        os.chdir("/")
    for killed in results:
        mark = "✗" if killed.problem else "✓"
        print(f"{mark} {killed.phase:<10} from step {killed.resumed_from}  {killed.problem}")
    different = [killed for killed in results if killed.problem]
    phases = ", ".join(
        f"{n} {phase}" for phase, n in Counter(k.phase for k in results).most_common()
    )
    print(
        f"{len(results)} runs killed ({phases}); {len(results) - len(different)} ended with the same weights,"
        f" steps and completions; {time.monotonic() - started:.0f} s"
    )
    return 1 if different or not results else 0


if __name__ == "__main__":
    sys.exit(main())
