"""Text formatting of bars, sizes, durations, and sparklines. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

UNKNOWN = "–"
_SPARKS = "▁▂▃▄▅▆▇█"


def format_bar(share: float, width: int) -> str:
    """A progress bar that is readable without color, by line weight: ``━━━━────``."""
    filled = round(min(1.0, max(0.0, share)) * width)
    return "━" * filled + "─" * (width - filled)


def format_duration(seconds: float) -> str:
    """``4.2 s``, ``42 s``, ``1:02``, ``2:05:09``."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    minutes, seconds_left = divmod(total, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{seconds_left:02}"
    return f"{minutes}:{seconds_left:02}"


def format_gigabytes(size: float) -> str:
    """Bytes as GB (10^9 bytes), without the unit: ``0.42``, ``9.1``, ``48.0``."""
    size /= 1e9
    return f"{size:.2f}" if size < 1 else f"{size:.1f}"


def format_signed(change: float, digits: int) -> str:
    """``+0.465``, ``−1.2``, ``±0.0``."""
    rounded = round(change, digits)
    sign = "+" if rounded > 0 else "−" if rounded < 0 else "±"
    return f"{sign}{abs(rounded):.{digits}f}"


def format_number(value: float | None, digits: int = 3) -> str:
    """A value with a fixed number of decimals, or a dash for None."""
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def format_significant(value: float | None) -> str:
    """A value of unknown magnitude with three significant digits: ``0.0123``, ``1.2e-05``, or a dash."""
    return UNKNOWN if value is None else f"{value:.3g}"


def format_percent(share: float | None, digits: int = 0) -> str:
    """``97%``, or a dash for None."""
    return UNKNOWN if share is None else f"{100 * share:.{digits}f}%"


def format_cost(cost: float | None) -> str:
    """``$0.0123``, ``$0``, or ``unknown`` for None."""
    if cost is None:
        return "unknown"
    return "$0" if cost == 0 else f"${cost:.4f}"


def sparkline(values: Sequence[float], width: int, high: float | None = None) -> str:
    """The newest `width` values as bars from 0 to `high` (default: the largest value)."""
    newest = list(values)[-width:]
    top = high or max(newest, default=0.0)
    if top <= 0:
        return _SPARKS[0] * len(newest)
    last = len(_SPARKS) - 1
    return "".join(_SPARKS[min(last, round(last * max(0.0, v) / top))] for v in newest)
