"""Figures as text: durations, sizes, differences, percentages and costs."""

from __future__ import annotations

UNKNOWN = "–"
"""Shown in place of an unknown figure."""


def format_duration(seconds: float | None) -> str:
    """`31 s`, `4 min 02 s`, `1 h 05 min`, or a dash for None."""
    if seconds is None:
        return UNKNOWN
    minutes, seconds_left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds_left:02d} s" if minutes else f"{seconds_left} s"


def format_clock(seconds: float | None) -> str:
    """A short duration, for the app: `4.2 s`, `42 s`, `1:02`, `2:05:09`, or a dash for None."""
    if seconds is None:
        return UNKNOWN
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    minutes, seconds_left = divmod(round(seconds), 60)
    if not minutes:
        return f"{seconds_left} s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{seconds_left:02}"
    return f"{minutes}:{seconds_left:02}"


def format_size(size: float) -> str:
    """Bytes as `1.24 GB` or, under 0.1 GB, as `21.3 MB`; a GB is 10^9 bytes."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def format_gigabytes(size: float) -> str:
    """Bytes as GB (10^9 bytes), without the unit: `0.42`, `9.1`, `48.0`."""
    size /= 1e9
    return f"{size:.2f}" if size < 1 else f"{size:.1f}"


def format_number(value: float | None, digits: int = 3) -> str:
    """A value with a fixed number of decimals, or a dash for None."""
    return UNKNOWN if value is None else _with_minus(f"{value:.{digits}f}")


def format_significant(value: float | None) -> str:
    """A value of unknown magnitude with three significant digits: `0.0123`, `1.2e-05`, or a dash."""
    return UNKNOWN if value is None else format_general(value, 3)


def format_general(value: float, digits: int = 6) -> str:
    """A value with at most so many significant digits and no trailing zeros: `7`, `0.25`, `−1.5`."""
    return _with_minus(f"{value:.{digits}g}")


def _with_minus(text: str) -> str:
    """A number as text with the minus sign that people print, not a hyphen."""
    return f"−{text[1:]}" if text.startswith("-") else text


def format_count(count: int, noun: str) -> str:
    """A number with its noun: `1 prompt`, `1,200 prompts`."""
    return f"{count:,} {format_plural(count, noun)}"


def format_plural(count: int, noun: str) -> str:
    """The noun of a number that is written elsewhere: `prompt`, `prompts`."""
    return noun if count == 1 else f"{noun}s"


def format_signed(value: float, digits: int = 0) -> str:
    """A difference with its sign: `+0.465`, `−1.2`; zero has no sign."""
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return f"{'+' if value > 0 else '−'}{text}"


def format_percent(share: float | None, digits: int = 0) -> str:
    """`97%`, or a dash for None."""
    return UNKNOWN if share is None else f"{100 * share:.{digits}f}%"


def format_share(part: int, total: int) -> str:
    """A number of prompts as a share: `97%`, or a dash if the total is 0."""
    return f"{100 * part / total:.0f}%" if total else UNKNOWN


def format_count_share(part: int, total: int) -> str:
    """A number of prompts as a share with the numbers: `97% (29/30)`; `no prompts` if there are none."""
    return f"{100 * part / total:.0f}% ({part}/{total})" if total else "no prompts"


def format_cost(cost: float | None, unknown: str = "unknown") -> str:
    """US dollars: `$0.0123`, `$0`, or `unknown` for None."""
    if cost is None:
        return unknown
    return "$0" if cost == 0 else f"${cost:.4f}"
