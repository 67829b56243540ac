"""Varied keys of a sweep, parsed from arguments: `seed=0,1,2` is three values, `seed=0` is one.

With ranges, such as `training.learning_rate=1e-5..1e-3`, the combinations are searched instead of enumerated.
Pure functions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from ida_tui.errors import UsageError
from ida_tui.sweep.ranges import ValueRange, is_range, parse_range
from ida_tui.util.text import quoted, short_key

SEED_KEY = "seed"
MAX_RUNS = 1000
"""Maximum number of runs in one sweep."""
MAX_EXTREMES = 32
"""Largest number of combinations of bounds that are checked before a search."""
FIXED_KEY_HINTS = {
    "experiment": "start a separate sweep for each experiment",
    "name": "all runs of a sweep belong to one experiment: give one name",
    "output_dir": "all runs of a sweep are in one output folder: give one folder",
    "budget": "set the limit for all runs together with --budget DOLLARS",
}
_LIKE_RANGE = re.compile(r"[^./\s]+\.\.[^./\s]+")
_OPENING, _CLOSING, _QUOTES = "[{(", "]})", "\"'"


@dataclass(frozen=True, slots=True)
class SweepGrid:
    """The varied keys and the fixed overrides."""

    keys: Mapping[str, tuple[str, ...]]
    """Dotted key → its values as typed, at least two; or one, which is a range."""
    fixed: tuple[str, ...]
    """`key=value` overrides that all runs share."""
    ranges: Mapping[str, ValueRange] = field(default_factory=dict)
    """Dotted key → its range, for the keys that have one."""

    @property
    def combinations(self) -> tuple[Mapping[str, str], ...]:
        """Every combination. The seed changes slowest, so that each setting has a run early."""
        assert not self.ranges
        order = sorted(self.keys, key=lambda key: key != SEED_KEY)
        return tuple(
            {key: dict(zip(order, values, strict=True))[key] for key in self.keys}
            for values in product(*(self.keys[key] for key in order))
        )

    def summary(self) -> str:
        """A summary such as `2 values of training.learning_rate × 3 of seed`."""
        if self.ranges:
            return ", ".join(
                f"{short_key(key)} {self.ranges[key].describe() if key in self.ranges else ', '.join(values)}"
                for key, values in self.keys.items()
            )
        parts = [f"{len(values)} of {short_key(key)}" for key, values in self.keys.items()]
        first, *rest = parts
        return " × ".join([first.replace(" of ", " values of ", 1), *rest])

    def extremes(self) -> tuple[Mapping[str, str], ...]:
        """Combinations of the bounds of the ranges and the values of the other keys, at most about 32.

        With more, each value and each bound is in one of them.
        """
        bounds = {
            key: (value.format(value.low), value.format(value.high))
            for key, value in self.ranges.items()
        }
        ends = {key: bounds.get(key, values) for key, values in self.keys.items()}
        if math.prod(map(len, ends.values())) <= MAX_EXTREMES:
            return tuple(dict(zip(ends, values, strict=True)) for values in product(*ends.values()))
        longest = max(map(len, ends.values()))
        return tuple(
            {key: values[min(index, len(values) - 1)] for key, values in ends.items()}
            for index in range(longest)
        )


def parse_grid(arguments: Sequence[str], *, trials: int | None = None) -> SweepGrid:
    """Parse `key=a,b,c` and `key=low..high` arguments.

    Args:
        arguments: the arguments.
        trials: number of combinations to search; None for a grid.

    Raises:
        UsageError: an argument is not key=value, a value is missing or given twice, nothing is varied, a
            range is wrong, or ranges and trials do not go together.
    """
    ranges: dict[str, ValueRange] = {}
    keys: dict[str, tuple[str, ...]] = {}
    fixed: list[str] = []
    seen: set[str] = set()
    for argument in arguments:
        key, equals, text = argument.partition("=")
        key = key.strip().removeprefix("--")
        if not equals or not key:
            raise UsageError(
                f"{quoted(argument)} is not key=value",
                "write seed=0,1,2 to vary a key, training.max_steps=20 to set it",
                where="command line",
            )
        if key in seen:
            raise UsageError(
                f"{short_key(key)} is given twice",
                f"write all its values in one argument: {short_key(key)}=A,B",
                where=f"command line: {short_key(key)}",
            )
        seen.add(key)
        values = split_values(key, text)
        if any(is_range(value) for value in values):
            _require_single_range(key, values)
            if key not in FIXED_KEY_HINTS:
                ranges[key] = parse_range(key, text)
        elif len(values) == 1:
            fixed.append(f"{key}={text}")
            continue
        if key in FIXED_KEY_HINTS:
            raise UsageError(
                f"{key} cannot be varied", FIXED_KEY_HINTS[key], where=f"command line: {key}"
            )
        keys[key] = values
    if ranges or trials is not None:
        _check_search(keys, ranges, trials, fixed)
        return SweepGrid(keys, tuple(fixed), ranges)
    if not keys:
        raise UsageError(
            "no key is varied",
            "give several values for at least one key, such as seed=0,1,2; "
            "for a single run, use ida-tui --run PROFILE",
            where="command line",
        )
    _check_run_count(keys)
    return SweepGrid(keys, tuple(fixed))


def _require_single_range(key: str, values: Sequence[str]) -> None:
    name = short_key(key)
    where = f"command line: {name}"
    if len(values) > 1:
        raise UsageError(
            f"{name} has a range and other values",
            f"give either one range, {name}=LOW..HIGH, or a list, {name}=A,B",
            where=where,
        )
    if key == SEED_KEY:
        raise UsageError(
            "the seed has no range",
            "search with one seed, then compare the best settings with seed=0,1,2",
            where=where,
        )


def _check_search(
    keys: Mapping[str, Sequence[str]],
    ranges: Mapping[str, ValueRange],
    trials: int | None,
    fixed: Sequence[str],
) -> None:
    """Check that a search has ranges, a number of trials and one seed.

    Raises:
        UsageError: it does not.
    """
    if not ranges:
        for key, _, text in (item.partition("=") for item in fixed):
            if _LIKE_RANGE.fullmatch(text):
                raise UsageError(
                    f"{quoted(text)} is not a range of numbers",
                    f"write two numbers: {short_key(key)}=LOW..HIGH",
                    where=f"command line: {short_key(key)}",
                )
        raise UsageError(
            "--trials needs a range to search",
            "write one, such as training.learning_rate=1e-5..1e-3; without --trials, every combination of"
            " listed values is trained",
            where="command line: --trials",
        )
    if trials is None:
        name = short_key(next(iter(ranges)))
        raise UsageError(
            f"the range of {name} needs a number of trials",
            f"add --trials 20, or list the values: {name}=A,B",
            where=f"command line: {name}",
        )
    counts = [
        int(ranges[key].high - ranges[key].low) + 1 if key in ranges else len(values)
        for key, values in keys.items()
    ]
    total = math.prod(counts)
    if all(value.is_integer for value in ranges.values()) and total <= trials:
        raise UsageError(
            f"there are only {total:,} combinations for {trials:,} trials",
            "train all of them: list the values, such as key=1,2,3, and leave out --trials",
            where="command line: --trials",
        )
    if SEED_KEY in keys:
        raise UsageError(
            "a search uses one seed, because it would choose the luckiest of several",
            "give one seed; then compare the best settings with seed=0,1,2",
            where=f"command line: {SEED_KEY}",
        )


def split_values(key: str, text: str) -> tuple[str, ...]:
    """Split the values of a key at commas outside brackets and quotes.

    Raises:
        UsageError: a value is empty or given twice.
    """
    values, depth, quote, start = [], 0, "", 0
    for position, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES and text[start:position].rstrip()[-1:] in ("", *"[{(,:"):
            quote = character  # only at the start of a value; a quote inside don't is not one
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif character == "," and depth <= 0:
            values.append(text[start:position])
            start = position + 1
    values.append(text[start:])
    if len(values) == 1:
        return (text,)
    values = [value.strip() for value in values]
    where = f"command line: {short_key(key)}"
    if not all(values):
        raise UsageError(
            f"{quoted(text)} has an empty value between commas",
            f"write {short_key(key)}=A,B; put a list that is one value in brackets: [a, b]",
            where=where,
        )
    for value in values:
        if values.count(value) > 1:
            raise UsageError(f"{quoted(value)} is given twice", "give each value once", where=where)
    return tuple(values)


def without_seed(combination: Mapping[str, str]) -> dict[str, str]:
    """A combination without its seed; shared by the runs that differ only in the seed."""
    return {key: value for key, value in combination.items() if key != SEED_KEY}


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Each dotted key → its shortest unique ending, such as `learning_rate`."""
    short = {}
    for key in keys:
        parts = key.split(".")
        endings = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        short[key] = next(
            (
                ending
                for ending in endings
                if sum(other == ending or other.endswith(f".{ending}") for other in keys) == 1
            ),
            key,
        )
    return short


def combination_label(combination: Mapping[str, str], keys: Sequence[str] | None = None) -> str:
    """A combination as text: `learning_rate=2e-3 seed=0`."""
    short = short_keys(list(keys or combination))
    return " ".join(
        f"{short_key(short.get(key, key))}={value}" for key, value in combination.items()
    )


def _check_run_count(keys: Mapping[str, Sequence[str]]) -> None:
    count = 1
    for values in keys.values():
        count *= len(values)
    if count > MAX_RUNS:
        raise UsageError(
            f"{count:,} combinations are too many; a sweep has at most {MAX_RUNS:,} runs",
            "use fewer values",
            where="command line",
        )
