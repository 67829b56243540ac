"""Kill real quickstart runs with SIGKILL at random moments, go on with each, and compare how they end.

    python -m tests.faults.kill --moments 60      # some minutes; prints what it saw
    uv run pytest tests/faults                    # a few moments, in CI

A run has to end with the weights of one that was never killed, byte for byte, and with every step and every
completion in its files exactly once. Every run is a fork of one process that has imported everything, so that
a moment costs seconds.
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

STEPS = 6
FEW = [prompt.id for prompt in resolve("quickstart").config.prompts.train()[:24]]
"""Prompts of three steps, so that a run goes on in its second epoch, too."""
RUN = (
    "--run", "quickstart", f"training.max_steps={STEPS}", "training.save_steps=2",
    f"prompts.only={json.dumps(FEW)}",
    "evaluation.samples=1", "evaluation.batch_size=30",
)  # fmt: skip
WEIGHTS = "adapter/adapter_model.safetensors"
PATIENCE_S = 180.0


@dataclass(frozen=True)
class Moment:
    """When a run is killed: so long after the event of this number is on disk."""

    seq: int
    delay_s: float


@dataclass(frozen=True)
class Killed:
    """What became of one run."""

    moment: Moment
    phase: str
    """What it was doing, by its last event."""
    safe: int
    """The step that it went on from."""
    problem: str = ""


def forked(*arguments: str) -> int:
    """`ida-tui` with these arguments in a child of this process; its process id."""
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


def ended(child: int) -> int:
    """Wait for a child; its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def prepare() -> None:
    """Import what a run imports, without starting a thread: a fork keeps none."""
    from ida_tui.engine import libraries

    libraries.set_library_defaults(Path())
    for name in ("run.loop", "run.build", "device.device", "run.evaluation", "run.preflight"):
        importlib.import_module(f"ida_tui.engine.{name}")


def newest() -> Path | None:
    """The newest run's directory, once its first event is on disk."""
    link = Path("outputs/quickstart/latest")
    return link.resolve() if (link / "events.jsonl").exists() else None


def kill_at(moment: Moment) -> bool:
    """Start a run and kill it; False where it was over before."""
    child = forked(*RUN)
    deadline = time.monotonic() + PATIENCE_S
    while _last_seq() < moment.seq and time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.001)
    time.sleep(moment.delay_s)
    os.kill(child, signal.SIGKILL)
    return ended(child) == -signal.SIGKILL


def _last_seq() -> int:
    run = newest()
    return -1 if run is None else (run / "events.jsonl").read_bytes().count(b"\n") - 1


def look(run: Path, reference: Path, moment: Moment) -> Killed:
    """Go on with a killed run, to its end, and compare it with one that was never killed."""
    records = list(read_events(run / "events.jsonl"))
    phase = next((r.event.phase for r in reversed(records) if hasattr(r.event, "phase")), "load")
    status = ended(forked("resume", str(run)))
    after = list(read_events(run / "events.jsonl"))
    resumed = [r.event.from_step for r in after if type(r.event).__name__ == "RunResumed"]
    killed = Killed(moment, phase, resumed[-1] if resumed else 0)
    return Killed(moment, phase, killed.safe, _problem(run, reference, status))


def _problem(run: Path, reference: Path, status: int) -> str:
    if status != 0:
        return f"it went on with exit code {status}"
    if (run / WEIGHTS).read_bytes() != (reference / WEIGHTS).read_bytes():
        return "its weights differ"
    records = list(read_events(run / "events.jsonl"))
    if [record.seq for record in records] != list(range(len(records))):
        return "its events are not numbered one by one"
    state, wanted = fold_all(records), fold_all(read_events(reference / "events.jsonl"))
    figures = [
        [(s.step, s.loss, s.r_ida, s.weight_delta) for s in x.steps] for x in (state, wanted)
    ]
    if figures[0] != figures[1]:
        return f"its steps are {[step for step, *_ in figures[0]]}, or their figures differ"
    return "" if _completions(run) == _completions(reference) else "its completions differ"


def _completions(run: Path) -> list[tuple[int, int, int, str, float]]:
    rows = map(json.loads, (run / "completions.jsonl").read_text().splitlines())
    return [(r["step"], r["group"], r["index"], r["text"], r["r_ida"]) for r in rows]


def moments(reference: Path, seed: int) -> Iterator[Moment]:
    """Moments of a run, without end: a third while it saves, the others anywhere."""
    records = list(read_events(reference / "events.jsonl"))
    saving = [r.seq for r in records if getattr(r.event, "phase", "") == "save"]
    chance = random.Random(seed)
    for number in itertools.count():
        seqs = saving if number % 3 == 0 else range(len(records) - 1)
        yield Moment(chance.choice(seqs), chance.uniform(0, 0.06))


def check(count: int, seed: int) -> list[Killed]:
    """Kill that many runs in the working directory; what became of each.

    A run that was over before its moment does not count, and another one is started.
    """
    prepare()
    home = Path.cwd()
    (home / "never-killed").mkdir()
    os.chdir(home / "never-killed")
    status = ended(forked(*RUN))
    assert status == 0, f"the run that is not killed ended with {status}"
    reference = newest()
    assert reference is not None
    found = []
    for number, moment in enumerate(moments(reference, seed)):
        if len(found) == count:
            break
        folder = home / f"killed-{number}"
        folder.mkdir()
        os.chdir(folder)
        if not kill_at(moment):
            continue
        run = newest()
        if run is None or '"RunEnded"' in (run / "events.jsonl").read_text():
            continue  # nothing had begun, or all was said
        found.append(look(run, reference, moment))
        print(f"{len(found)} of {count}: {found[-1]}", file=sys.stderr, flush=True)
    os.chdir(home)
    return found


def main() -> int:
    """Kill runs and print what became of them; 1 where one did not end as it should."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--moments", type=int, default=60)
    flags.add_argument("--seed", type=int, default=0)
    options = flags.parse_args()
    with tempfile.TemporaryDirectory(prefix="ida-tui-kill-") as folder:
        os.environ["IDA_TUI_CACHE_DIR"] = f"{folder}/cache"
        os.chdir(folder)
        started = time.monotonic()
        found = check(options.moments, options.seed)
        os.chdir("/")
    for killed in found:
        mark = "✗" if killed.problem else "✓"
        print(f"{mark} {killed.phase:<10} from step {killed.safe}  {killed.problem}")
    wrong = [killed for killed in found if killed.problem]
    phases = ", ".join(f"{n} {phase}" for phase, n in Counter(k.phase for k in found).most_common())
    print(
        f"{len(found)} runs killed ({phases}); {len(found) - len(wrong)} ended with the same weights,"
        f" steps and completions; {time.monotonic() - started:.0f} s"
    )
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    sys.exit(main())
