"""Registry of the app's screens by name. Each module is imported when its screen is first shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from textual.screen import Screen

from ida_tui.tui.screens.launch.screen import LaunchScreen


def _run_screen() -> Screen[Any]:
    from ida_tui.tui.screens.run.screen import RunScreen

    return RunScreen()


def _completions_screen() -> Screen[Any]:
    from ida_tui.tui.screens.completions.screen import CompletionsScreen

    return CompletionsScreen()


def _runs_screen() -> Screen[Any]:
    from ida_tui.tui.screens.runs import RunsScreen

    return RunsScreen()


def _compare_screen() -> Screen[Any]:
    from ida_tui.tui.screens.compare import CompareScreen

    return CompareScreen()


def _sweep_screen() -> Screen[Any]:
    from ida_tui.tui.screens.sweep import SweepScreen

    return SweepScreen()


def _chat_screen() -> Screen[Any]:
    from ida_tui.tui.screens.chat.screen import ChatScreen

    return ChatScreen()


MODES: Mapping[str, Callable[[], Screen[Any]]] = {
    "launch": LaunchScreen,
    "run": _run_screen,
    "completions": _completions_screen,
    "runs": _runs_screen,
    "compare": _compare_screen,
    "sweep": _sweep_screen,
    "chat": _chat_screen,
}
