"""Benchmark of the intervals: coverage of shares and of changes, and false claims that nothing changed.

    uv run python benchmarks/intervals.py            # about 40 seconds
    uv run python benchmarks/intervals.py --quick    # about ten seconds
    uv run python benchmarks/intervals.py --json intervals.json

Simulates evaluations: 5 to 80 prompts, 1 or 4 answers each, prompts that are all alike, that differ, and that
are always or never answered. First, the share of one model: for each true share, how often the 95% interval
covers it, as the mean over the designs, and the lowest coverage of a design. Few prompts allow few different
outcomes, so no interval without random limits has 93 to 97% in every design: 5 independent answers at a true
share of 2% have either 90.4% or 99.6%. Second, the paired change between two models. Third, a true loss of 9
points on 10 prompts with 4 answers: how often the verdict is "as before". The last line compares the figures
with their goals; the exit status is 1 if a goal is missed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.goals import Goal, build_parser, run_benchmark  # noqa: E402
from ida_tui.util.intervals import (  # noqa: E402
    Interval,
    change_interval,
    outcome_of_change,
    share_interval,
)

TRUE_SHARES = (0.02, 0.1, 0.5, 0.9, 0.98)
PROMPTS = (5, 10, 20, 40, 80)
POPULATIONS = ("alike", "similar", "different", "all or nothing")
"""The prompts' own shares: equal, beta with a correlation of 0.1 or 0.3, or only 0 and 1."""
LOSS_TRIALS = 1_000
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def main() -> int:
    """Run the benchmark; returns the exit status."""
    options = build_parser(__doc__).parse_args()
    trials = 1_500 if options.quick else 10_000
    parts = [partial(cover_shares, trials), partial(cover_changes, trials // 3), claim_no_change]
    return run_benchmark("intervals", parts, options.json)


def designs() -> Iterator[tuple[int, int, str]]:
    """Number of prompts, answers to each, and population; with one answer, the populations are the same."""
    for prompts in PROMPTS:
        yield prompts, 1, "alike"
        for population in POPULATIONS:
            yield prompts, 4, population


def draw_shares(
    random: np.random.Generator, population: str, share: float, shape: tuple[int, int]
) -> Floats:
    """The true share of each prompt, trials × prompts, with the mean `share`."""
    if population == "alike" or share in (0, 1):
        return np.full(shape, share)
    if population == "all or nothing":
        return (random.random(shape) < share).astype(float)
    weight = 1 / {"similar": 0.1, "different": 0.3}[population] - 1
    return random.beta(share * weight, (1 - share) * weight, shape)


def coverage(
    counts: Ints, answers: int, truth: float, interval: Callable[[list[float]], Interval]
) -> float:
    """Share of the trials whose interval contains the truth. `counts` are trials × prompts."""
    # An interval depends on these figures of a trial alone, so equal trials are computed once.
    most_common = np.max([(counts == value).sum(1) for value in np.unique(counts)], axis=0)
    figures = np.stack(
        [counts.sum(1), np.abs(counts).sum(1), (counts * counts).sum(1), most_common], axis=1
    )
    _, first, times = np.unique(figures, axis=0, return_index=True, return_counts=True)
    covered = 0
    for trial, count in zip(first, times, strict=True):
        found = interval([float(value) / answers for value in counts[trial]])
        covered += int(count) * (found.low - 1e-9 <= truth <= found.high + 1e-9)
    return covered / len(counts)


def lowest_goal(name: str, lowest: float, trials: int) -> Goal:
    """No design under 93%, apart from three standard errors of the simulation."""
    error = 300 * float(np.sqrt(0.93 * 0.07 / trials))
    return Goal(f"{name}, 95% less the lowest design", 95 - 100 * lowest, 2 + error, " points")


# -- shares -----------------------------------------------------------------------------------


def cover_shares(trials: int) -> tuple[list[Goal], dict[str, Any]]:
    """Coverage of the interval of one share."""
    random = np.random.default_rng(1)
    goals: list[Goal] = []
    table = []
    for share in TRUE_SHARES:
        covered = []
        for prompts, answers, population in designs():
            shares = draw_shares(random, population, share, (trials, prompts))
            counts = random.binomial(answers, shares)
            covered.append(coverage(counts, answers, share, share_interval))
            table.append([share, prompts, answers, population, covered[-1]])
        mean = 100 * float(np.mean(covered))
        print(
            f"share {share:g}: coverage {mean:.1f}% over {len(covered)} designs,"
            f" {100 * min(covered):.1f} to {100 * max(covered):.1f}%",
            flush=True,
        )
        goals += [
            Goal(f"share {share:g}, coverage away from 95%", abs(mean - 95), 2, " points"),
            lowest_goal(f"share {share:g}", min(covered), trials),
        ]
    return goals, {"shares": table}


# -- changes ----------------------------------------------------------------------------------


def cover_changes(trials: int) -> tuple[list[Goal], dict[str, Any]]:
    """Coverage of the interval of a paired change, from a share to the same or another one."""
    random = np.random.default_rng(2)
    table = []
    pairs = [(share, share) for share in TRUE_SHARES]
    pairs += [(0.02, 0.98), (0.3, 0.6), (0.9, 0.98), (1.0, 0.98), (1.0, 0.91)]
    for before, after in pairs:
        covered = []
        for prompts, answers, population in designs():
            shape = (trials, prompts)
            old = random.binomial(answers, draw_shares(random, population, before, shape))
            new = random.binomial(answers, draw_shares(random, population, after, shape))
            covered.append(coverage(new - old, answers, after - before, change_interval))
            table.append([before, after, prompts, answers, population, covered[-1]])
        print(
            f"change {before:g} → {after:g}: coverage {100 * float(np.mean(covered)):.1f}% over"
            f" {len(covered)} designs, {100 * min(covered):.1f} to {100 * max(covered):.1f}%",
            flush=True,
        )
    lowest = min(row[-1] for row in table)
    return [lowest_goal("change", lowest, trials)], {"changes": table}


def claim_no_change() -> tuple[list[Goal], dict[str, Any]]:
    """A true loss of 9 points: the base model always declines; the other answers 90% on one prompt in ten."""
    random = np.random.default_rng(3)
    goals: list[Goal] = []
    details: dict[str, Any] = {}
    for prompts, answers in ((10, 4), (10, 1), (20, 8), (60, 4)):
        broken = random.random((LOSS_TRIALS, prompts)) < 0.1
        declined = random.binomial(answers, np.where(broken, 0.1, 1.0))
        false, zero_width = 0, 0
        for row in declined:
            found = change_interval([float(count) / answers - 1 for count in row])
            false += outcome_of_change(found.low, found.high, count=prompts) == "same"
            zero_width += found.high - found.low < 0.01
        name = f"{prompts} prompts × {answers}"
        details[name] = {"as_before": false, "zero_width": zero_width}
        goals.append(
            Goal(f'loss of 9 points, {name}: "as before"', 100 * false / LOSS_TRIALS, 5, "%")
        )
    return goals, {"loss": details}


if __name__ == "__main__":
    sys.exit(main())
