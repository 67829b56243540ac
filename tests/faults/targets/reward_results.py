"""Hostile results of reward functions: a score is what the function returned, or a failure with a reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np

from ida_tui.config.scoring.axes import Axis
from ida_tui.rewards.function_results import read_results
from ida_tui.util.plugin_threads import PluginFailure

AXES = (Axis("short", "computed", 0.0, 1.0), Axis("free", "computed", None, None))
NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 0.5, 2.0, True, math.nan, math.inf, -math.inf, 10**400, Fraction(1, 3), np.float32(0.25),
    np.int64(1), np.bool_(True), np.array(0.5), 1e308, -0.0, 5e-324,
)  # fmt: skip
OTHERS: tuple[Any, ...] = (
    None, "0.5", b"1", "", "1e5", [], [1], {}, {"short": 1}, {1}, 1j, object(), type, len, range(2),
    NotImplemented, np.array([1.0, 2.0]), np.array(["a"]), Ellipsis, "\x1b[31mred", {"\x1b[2J": 1},
)  # fmt: skip


class _Strange:
    """An object whose methods fail, lie or do not end soon."""

    def __init__(self, rng: Random) -> None:
        self._error = rng.choice(
            [ValueError, KeyError, SystemExit, KeyboardInterrupt, RecursionError]
        )
        self._length = rng.choice([0, 2, -1, 10**9, "x"])
        self._fails = rng.random() < 0.5

    def __float__(self) -> float:
        if self._fails:
            raise self._error("no\x1b[2J")
        return "0.5"  # type: ignore[return-value]

    def __len__(self) -> Any:
        return self._length

    def __iter__(self) -> Any:
        if self._fails:
            raise self._error
        while True:
            yield 0.5

    def __bool__(self) -> bool:
        raise self._error

    def __eq__(self, other: object) -> bool:
        raise self._error

    __hash__ = object.__hash__


def value(rng: Random, depth: int = 0) -> Any:
    """One value that a function may return for a completion."""
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(NUMBERS)
    if kind < 0.7:
        return rng.choice(OTHERS)
    if kind < 0.8:
        return _Strange(rng)
    if kind < 0.95 or depth > 2:
        names = [axis.name for axis in AXES]
        return {name: value(rng, 3) for name in rng.sample([*names, "other"], rng.randint(0, 3))}
    return [value(rng, depth + 1) for _ in range(rng.randint(0, 3))]


def reward_result(rng: Random) -> bool:
    """One result of a function, for some completions and one or two axes."""
    axes = AXES[: rng.randint(1, 2)]
    rows = rng.randint(1, 4)
    form: Any = rng.choice(["batch", "group", "single"])
    results = [value(rng) for _ in range(rows if rng.random() < 0.8 else rng.randint(0, 6))]
    outcomes = [results, tuple(results), iter(results), (r for r in results), value(rng)]
    chosen = rng.randrange(len(outcomes))
    outcome = outcomes[chosen] if form != "single" else results[0] if results else None
    known = form == "single" or chosen < 4
    rows = 1 if form == "single" else rows
    read = read_results(outcome, rows, form, axes)
    assert len(read) == rows
    for row, scores in enumerate(read):
        assert list(scores) == [axis.name for axis in axes]
        for axis in axes:
            returned = results[row] if known and row < len(results) else None
            _check(scores[axis.name], axis, returned)
    return all(isinstance(score, float) for scores in read for score in scores.values())


def _check(score: object, axis: Axis, returned: Any) -> None:
    """Raise if a score is not what the function returned; None where that is not known."""
    if isinstance(score, PluginFailure):
        text = str(score)
        assert text
        assert text.isprintable(), text
        return
    assert type(score) is float
    assert axis.contains(score)
    if returned is not None and not isinstance(returned, _Strange):
        given = returned[axis.name] if isinstance(returned, Mapping) else returned
        assert float(given) == score
