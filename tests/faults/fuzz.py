"""Fuzzing: thousands of hostile inputs, and counts of what happens.

    python -m tests.faults.fuzz --cases 100000     # some minutes; prints a summary
    uv run pytest tests/faults/test_fuzz.py        # some hundreds of cases, in CI

No case may end in a traceback, hang, or print a control character for a terminal.
Case N of a seed is the same on every machine; `--only N` runs only that case.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType

LIMIT_S = 120.0
"""Processor time after which a case hangs. Reading the largest file takes some seconds on a slow core."""


class Hang(BaseException):
    """A case took too long. No exception handler of the program catches this exception."""


@dataclass
class Tally:
    """Results of the cases of one kind."""

    accepted: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    slowest: int = -1
    failures: list[tuple[int, str]] = field(default_factory=list)
    """Number of the case, and the error."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `Hang` inside the block if it takes longer than this."""

    def expire(number: int, frame: FrameType | None) -> None:
        raise Hang(f"after {seconds:g} s in {frame and frame.f_code.co_qualname}")

    # Limit the processor time, whatever else the machine does, and the wall time, for code that waits.
    timers = {signal.ITIMER_PROF: seconds, signal.ITIMER_REAL: 4 * seconds}
    before = {number: signal.signal(number, expire) for number in (signal.SIGPROF, signal.SIGALRM)}
    for timer, length in timers.items():
        signal.setitimer(timer, length)
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Isolate the block from the user's files, in a temporary directory."""
    before, environment = Path.cwd(), dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="ida-tui-fuzz-") as folder:
        os.environ["IDA_TUI_PROFILES"] = f"{folder}/user-profiles"
        os.environ["IDA_TUI_CACHE_DIR"] = f"{folder}/cache"
        os.environ["HF_HOME"] = f"{folder}/hub"
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ.pop("OPENAI_API_KEY", None)
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
            os.environ.clear()
            os.environ.update(environment)


def run_cases(numbers: range, seed: int, kinds: tuple[str, ...] = ()) -> dict[str, Tally]:
    """Run these cases and return the results by kind."""
    from tests.faults.targets.table import TARGETS

    names = [name for name in TARGETS if not kinds or name in kinds]
    shares = [TARGETS[name][1] for name in names]
    tallies = {name: Tally() for name in names}
    for name in names:  # imports and files that are read once do not count as time of a case
        with contextlib.suppress(Exception):
            TARGETS[name][0](Random(0))
    for number in numbers:
        rng = Random(f"{seed}:{number}")
        name = rng.choices(names, shares)[0]
        run_case(name, number, rng, tallies[name])
    return tallies


def run_case(name: str, number: int, rng: Random, tally: Tally) -> None:
    """Run one case and add its result to the tally."""
    from tests.faults.targets.table import TARGETS

    started = time.perf_counter()
    try:
        with time_limit(LIMIT_S):
            accepted = TARGETS[name][0](rng)
        tally.accepted += accepted
        tally.refused += not accepted
    except (Exception, Hang, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "/ida_tui/" in f.filename] or frames
        location = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        failure = f"{type(error).__name__} at {location}: {str(error)[:200]!r}"
        tally.failures.append((number, failure))
    seconds = time.perf_counter() - started
    if seconds > tally.slowest_s:
        tally.slowest_s, tally.slowest = seconds, number


def main() -> int:
    """Run the cases and print a summary; returns 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", default=[], help="run only this kind of input")
    parser.add_argument("--only", type=int, help="run only this case")
    options = parser.parse_args()
    numbers = range(options.cases)
    if options.only is not None:
        numbers = range(options.only, options.only + 1)
    started = time.monotonic()
    with isolated():
        tallies = run_cases(numbers, options.seed, tuple(options.kind))
    return report(tallies, time.monotonic() - started)


def report(tallies: dict[str, Tally], seconds: float) -> int:
    """Print a summary; returns 1 if a case failed."""
    failures = [(name, *failure) for name, tally in tallies.items() for failure in tally.failures]
    shown: dict[str, int] = {}
    for name, number, message in failures:
        location = message.split(":")[0] + ":" + message.split(":")[1]
        shown[location] = shown.get(location, 0) + 1
        if shown[location] <= 2:
            print(f"✗ case {number} ({name}): {message}")
    for name, tally in tallies.items():
        cases = tally.accepted + tally.refused + len(tally.failures)
        print(
            f"{name:<16} {cases:>7,} cases  {tally.accepted:>7,} accepted  {tally.refused:>7,} refused"
            f"  slowest {1000 * tally.slowest_s:>5.0f} ms  {len(tally.failures)} failed"
        )
    total = sum(tally.accepted + tally.refused + len(tally.failures) for tally in tallies.values())
    hangs = sum("Hang" in message for _, _, message in failures)
    escapes = sum("is printed" in message for _, _, message in failures)
    others = len(failures) - hangs - escapes
    print(
        f"{total:,} cases in {seconds:.0f} s: {others} exceptions, {hangs} hangs over {LIMIT_S:g} s,"
        f" {escapes} escape sequences"
    )
    return 1 if failures or not total else 0


if __name__ == "__main__":
    sys.exit(main())
