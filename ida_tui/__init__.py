"""ida-tui: a GRPO workbench for the terminal.

    from ida_tui import load_run, run

Both functions live in `ida_tui.api` and are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ida_tui.api import Run, load_run, run
    from ida_tui.errors import IdaError

__version__ = "0.1.0"
__all__ = ["IdaError", "Run", "__version__", "load_run", "run"]

_PUBLIC_NAMES = {
    "IdaError": "ida_tui.errors",
    "Run": "ida_tui.api",
    "load_run": "ida_tui.api",
    "run": "ida_tui.api",
}


def __getattr__(name: str) -> object:
    """A public name, imported on first use, so that `import ida_tui` alone loads nothing."""
    if name in _PUBLIC_NAMES:
        from importlib import import_module

        return getattr(import_module(_PUBLIC_NAMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
