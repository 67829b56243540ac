"""Give the program hostile input by the thousand, and count what comes of it.

    python -m tests.faults.fuzz --cases 100000     # some minutes; prints what it saw
    uv run pytest tests/faults/test_fuzz.py        # some hundreds, in CI

No case may end in a traceback, take longer than five seconds, or bring out a character that a terminal acts
on. Case N of a seed is the same wherever it is run: `--only N` runs that one alone.
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

LIMIT_S = 5.0
"""The largest file that is read takes two to four seconds on a slow core."""


class Hang(BaseException):
    """A case took too long; no handler of the program's catches it."""


@dataclass
class Tally:
    """What became of the cases of one kind."""

    accepted: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    slowest: int = -1
    failures: list[tuple[int, str]] = field(default_factory=list)
    """Number of the case, and what went wrong."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise `Hang` inside the block where it takes longer than that."""

    def over(number: int, frame: FrameType | None) -> None:
        raise Hang(f"after {seconds:g} s in {frame and frame.f_code.co_qualname}")

    # By its own processor time, whatever else the machine does; by the clock where it only waits.
    timers = {signal.ITIMER_PROF: seconds, signal.ITIMER_REAL: 4 * seconds}
    before = {number: signal.signal(number, over) for number in (signal.SIGPROF, signal.SIGALRM)}
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
def workplace() -> Iterator[None]:
    """Inside the block nothing of the user's is read or written."""
    before, kept = Path.cwd(), dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="ida-tui-fuzz-") as folder:
        os.environ["IDA_TUI_PROFILES"] = f"{folder}/user-profiles"
        os.environ["IDA_TUI_CACHE_DIR"] = f"{folder}/cache"
        os.environ["HF_HOME"] = f"{folder}/hub"
        os.environ.pop("OPENAI_API_KEY", None)
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
            os.environ.clear()
            os.environ.update(kept)


def run(numbers: range, seed: int, kinds: tuple[str, ...] = ()) -> dict[str, Tally]:
    """Run these cases; what became of them, by kind."""
    from tests.faults.targets import TARGETS

    names = [name for name in TARGETS if not kinds or name in kinds]
    shares = [TARGETS[name][1] for name in names]
    tallies = {name: Tally() for name in names}
    for name in names:  # imports and files that are read once are not a case's time
        with contextlib.suppress(Exception):
            TARGETS[name][0](Random(0))
    for number in numbers:
        chance = Random(f"{seed}:{number}")
        name = chance.choices(names, shares)[0]
        one(name, number, chance, tallies[name])
    return tallies


def one(name: str, number: int, chance: Random, tally: Tally) -> None:
    """Run one case and count it."""
    from tests.faults.targets import TARGETS

    began = time.perf_counter()
    try:
        with within(LIMIT_S):
            accepted = TARGETS[name][0](chance)
        tally.accepted += accepted
        tally.refused += not accepted
    except (Exception, Hang, SystemExit) as error:
        place = traceback.extract_tb(error.__traceback__)
        ours = [f for f in place if "/ida_tui/" in f.filename] or place
        at = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        said = f"{type(error).__name__} at {at}: {str(error)[:200]!r}"
        tally.failures.append((number, said))
    spent = time.perf_counter() - began
    if spent > tally.slowest_s:
        tally.slowest_s, tally.slowest = spent, number


def main() -> int:
    """Run the cases and print the figures; 1 where one failed."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--cases", type=int, default=100_000)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--kind", action="append", default=[], help="only this kind of input")
    flags.add_argument("--only", type=int, help="only this case")
    options = flags.parse_args()
    numbers = range(options.cases)
    if options.only is not None:
        numbers = range(options.only, options.only + 1)
    began = time.monotonic()
    with workplace():
        tallies = run(numbers, options.seed, tuple(options.kind))
    return report(tallies, time.monotonic() - began)


def report(tallies: dict[str, Tally], seconds: float) -> int:
    """Print the figures; 1 where a case failed."""
    failures = [(name, *one) for name, tally in tallies.items() for one in tally.failures]
    seen: dict[str, int] = {}
    for name, number, said in failures:
        place = said.split(":")[0] + ":" + said.split(":")[1]
        seen[place] = seen.get(place, 0) + 1
        if seen[place] <= 2:
            print(f"✗ case {number} ({name}): {said}")
    for name, t in tallies.items():
        cases = t.accepted + t.refused + len(t.failures)
        print(
            f"{name:<16} {cases:>7,} cases  {t.accepted:>7,} accepted  {t.refused:>7,} refused"
            f"  slowest {1000 * t.slowest_s:>5.0f} ms  {len(t.failures)} failed"
        )
    total = sum(t.accepted + t.refused + len(t.failures) for t in tallies.values())
    hangs = sum("Hang" in said for _, _, said in failures)
    escapes = sum("comes out" in said for _, _, said in failures)
    others = len(failures) - hangs - escapes
    print(
        f"{total:,} cases in {seconds:.0f} s: {others} exceptions, {hangs} hangs over {LIMIT_S:g} s,"
        f" {escapes} escape sequences"
    )
    return 1 if failures or not total else 0


if __name__ == "__main__":
    sys.exit(main())
