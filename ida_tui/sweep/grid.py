"""The words of a command line as a grid of combinations: ``seed=0,1,2`` is three values, ``seed=0`` is one.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from ida_tui.errors import UsageError
from ida_tui.util.text import quoted, safe

SEED = "seed"
MOST = 1000
"""Runs in one sweep."""
NOT_SWEPT = {
    "experiment": "start one sweep for each experiment",
    "name": "the runs of a sweep belong to one experiment: give it one name",
    "output_dir": "the runs of a sweep lie side by side: give it one folder",
    "budget": "what all runs may cost together is --budget DOLLARS",
}
_OPENING, _CLOSING, _QUOTES = "[{(", "]})", "\"'"


@dataclass(frozen=True, slots=True)
class Grid:
    """What is varied, and what stays."""

    keys: Mapping[str, tuple[str, ...]]
    """Dotted key → its values as typed, two or more."""
    fixed: tuple[str, ...]
    """``key=value`` that all runs share."""

    @property
    def combinations(self) -> tuple[Mapping[str, str], ...]:
        """Every combination. The seed changes last, so that each setting has a run early on."""
        order = sorted(self.keys, key=lambda key: key != SEED)
        return tuple(
            {key: dict(zip(order, values, strict=True))[key] for key in self.keys}
            for values in product(*(self.keys[key] for key in order))
        )

    def words(self) -> str:
        """Such as ``2 values of training.learning_rate × 3 of seed``."""
        said = [f"{len(values)} of {safe(key)}" for key, values in self.keys.items()]
        first, *rest = said
        return " × ".join([first.replace(" of ", " values of ", 1), *rest])


def grid(words: Sequence[str]) -> Grid:
    """The grid that ``key=a,b,c`` words mean.

    Raises:
        UsageError: a word is not key=value, a value is missing or given twice, or nothing is varied.
    """
    keys: dict[str, tuple[str, ...]] = {}
    fixed: list[str] = []
    seen: set[str] = set()
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip().removeprefix("--")
        if not equals or not key:
            raise UsageError(
                f"{quoted(word)} is not key=value",
                "write seed=0,1,2 to vary a value, training.max_steps=20 to fix one",
                where="command line",
            )
        if key in seen:
            raise UsageError(
                f"{safe(key)} is given twice",
                f"write its values behind each other: {safe(key)}=A,B",
                where=f"command line: {safe(key)}",
            )
        seen.add(key)
        values = split(key, text)
        if len(values) == 1:
            fixed.append(f"{key}={text}")
            continue
        if key in NOT_SWEPT:
            raise UsageError(
                f"{key} cannot be varied", NOT_SWEPT[key], where=f"command line: {key}"
            )
        keys[key] = values
    if not keys:
        raise UsageError(
            "nothing is varied",
            "give at least one key several values, such as seed=0,1,2; "
            "one run alone is ida-tui --run PROFILE",
            where="command line",
        )
    _refuse_too_many(keys)
    return Grid(keys, tuple(fixed))


def split(key: str, text: str) -> tuple[str, ...]:
    """The values of a key: what stands between commas that are in no bracket and no quotes.

    Raises:
        UsageError: a value is empty or given twice.
    """
    values, depth, quote, start = [], 0, "", 0
    for at, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in _QUOTES and text[start:at].rstrip()[-1:] in ("", *"[{(,:"):
            quote = letter  # where a value begins; elsewhere, as in don't, it is a letter
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth -= 1
        elif letter == "," and depth <= 0:
            values.append(text[start:at])
            start = at + 1
    values.append(text[start:])
    if len(values) == 1:
        return (text,)
    values = [value.strip() for value in values]
    where = f"command line: {safe(key)}"
    if not all(values):
        raise UsageError(
            f"{quoted(text)} has a comma with no value beside it",
            f"write {safe(key)}=A,B; a list that is one value stands in brackets: [a, b]",
            where=where,
        )
    for value in values:
        if values.count(value) > 1:
            raise UsageError(f"{quoted(value)} is given twice", "give each value once", where=where)
    return tuple(values)


def settings(keys: Sequence[str], combination: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """A combination without its seed: what the runs of several seeds have in common."""
    return tuple((key, combination[key]) for key in keys if key != SEED)


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The shortest endings of dotted keys that still tell them apart: ``learning_rate``."""
    found = {}
    for key in keys:
        parts = key.split(".")
        endings = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        found[key] = next(
            (
                ending
                for ending in endings
                if sum(other == ending or other.endswith(f".{ending}") for other in keys) == 1
            ),
            key,
        )
    return found


def named(combination: Mapping[str, str], keys: Sequence[str] | None = None) -> str:
    """A combination in words: ``learning_rate=2e-3 seed=0``."""
    short = short_keys(list(keys or combination))
    return " ".join(f"{safe(short.get(key, key))}={value}" for key, value in combination.items())


def _refuse_too_many(keys: Mapping[str, Sequence[str]]) -> None:
    count = 1
    for values in keys.values():
        count *= len(values)
    if count > MOST:
        raise UsageError(
            f"that is {count:,} runs, and a sweep has at most {MOST:,}",
            "give fewer values",
            where="command line",
        )
