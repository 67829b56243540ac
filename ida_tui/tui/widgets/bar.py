"""Progress bars as text."""

from __future__ import annotations


def format_bar(share: float, width: int) -> str:
    """A progress bar that is readable without color, by line weight: `━━━━────`."""
    filled = round(min(1.0, max(0.0, share)) * width)
    return "━" * filled + "─" * (width - filled)
