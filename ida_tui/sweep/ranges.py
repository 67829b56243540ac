"""Ranges of a search, parsed from arguments such as `training.learning_rate=1e-5..1e-3`.

Pure functions. A range over a factor of 10 or more is searched on a logarithmic scale. The values of a key
that is a whole number in the profile are whole numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ida_tui.config.validation import number_types
from ida_tui.errors import UsageError
from ida_tui.util.text import quoted, short_key

LOG_FACTOR = 10
"""Smallest ratio of the bounds for which a range is searched on a logarithmic scale."""
DIGITS = 3
"""Significant digits of a suggested value, so that it can be read and typed."""
_BOUND = r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.?(?:inf|nan)"
_RANGE = re.compile(rf"\s*({_BOUND})?\s*\.\.\s*({_BOUND})?\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ValueRange:
    """The numbers that a search may give to a key."""

    low: float
    high: float
    """The largest value, which is included."""
    is_integer: bool
    is_log: bool
    """Whether the logarithm of the value is searched."""

    def round(self, value: float) -> float:
        """A suggested value with few digits, inside of the range."""
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def format(self, value: float) -> str:
        """A value as it would be typed; exact for a rounded value."""
        if self.is_integer:
            return str(round(value))
        text = f"{value:.{DIGITS}g}"
        text = text if float(text) == value else repr(value)
        return re.sub(r"e([-+])0+", r"e\1", text).replace("e+", "e")

    def describe(self) -> str:
        """The range as text: `1e-5..1e-3 (log)`."""
        bounds = f"{self.format(self.low)}..{self.format(self.high)}"
        return f"{bounds} (log)" if self.is_log else bounds


def is_range(text: str) -> bool:
    """Whether a typed value is a range: numbers around two dots, of which one may be missing by mistake."""
    match = _RANGE.fullmatch(text)
    return match is not None and (match[1] is not None or match[2] is not None)


def parse_range(key: str, text: str) -> ValueRange:
    """Parse `LOW..HIGH`.

    Args:
        key: the dotted key.
        text: a text for which `is_range` is true.

    Raises:
        UsageError: a bound is missing or not finite, the bounds are equal or in the wrong order, or the key
            takes no number, or only whole numbers.
    """
    match = _RANGE.fullmatch(text)
    assert match is not None
    where, name = f"command line: {short_key(key)}", short_key(key)
    example = f"write the smaller number first: {name}=LOW..HIGH"
    if match[1] is None or match[2] is None:
        end = "lower" if match[1] is None else "upper"
        raise UsageError(f"the range {quoted(text)} has no {end} bound", example, where=where)
    types = number_types(key)
    if not types:
        raise UsageError(
            f"{name} is not a number, so it has no range",
            f"list its values: {name}=A,B",
            where=where,
        )
    low, high = (_parse_bound(bound) for bound in match.groups())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UsageError(
            f"the bounds of {quoted(text)} are not finite numbers", example, where=where
        )
    if low > high:
        raise UsageError(
            f"the range {quoted(text)} is reversed",
            f"write the smaller number first: {name}={match[2]}..{match[1]}",
            where=where,
        )
    if low == high:
        raise UsageError(
            f"the range {quoted(text)} has only one value",
            f"set the value without a range: {name}={match[1]}",
            where=where,
        )
    is_integer = float not in types or (int in types and _are_whole(match[1], match[2]))
    if is_integer and not (low.is_integer() and high.is_integer()):
        raise UsageError(
            f"{name} is a whole number, but the bounds of {quoted(text)} are not",
            f"write whole numbers: {name}={math.ceil(low)}..{math.floor(high)}",
            where=where,
        )
    return ValueRange(low, high, is_integer, is_log=low > 0 and high / low >= LOG_FACTOR)


def _parse_bound(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _are_whole(*bounds: str) -> bool:
    return all(re.fullmatch(r"[-+]?[0-9_]+", bound) for bound in bounds)


def range_as_json(value: ValueRange) -> dict[str, float | bool]:
    """A range as JSON values."""
    return {
        "low": value.low,
        "high": value.high,
        "integer": value.is_integer,
        "log": value.is_log,
    }


def range_from_json(data: Mapping[str, object]) -> ValueRange:
    """A range from the JSON values of `range_as_json`.

    Raises:
        ValueError, TypeError, KeyError: the values are not those of a range.
    """
    low, high = (float(str(data[bound])) for bound in ("low", "high"))
    if not low < high or not math.isfinite(high - low):
        raise ValueError("not a range")
    is_integer, is_log = bool(data["integer"]), bool(data["log"])
    if is_log and low <= 0:
        raise ValueError("not a range of positive numbers")
    return ValueRange(low, high, is_integer, is_log)
