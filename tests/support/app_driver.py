"""Driver for the app without a terminal, with a fixed size and a fixed clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from textual.pilot import Pilot
from textual.widgets import Static

from ida_tui.tui.app import IdaApp

NOON = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
WIDE, SMALL = (120, 40), (80, 24)


def drive(
    scenario: Callable[[IdaApp, Pilot[None]], Awaitable[Any]],
    *,
    size: tuple[int, int] = WIDE,
    app: IdaApp | None = None,
) -> None:
    """Run the scenario on the app, without a terminal."""

    async def main() -> None:
        driven = app or IdaApp(clock=lambda: NOON, own_memory=lambda: 77_000_000)
        async with driven.run_test(size=size) as pilot:
            await settled(driven, pilot)
            await scenario(driven, pilot)

    asyncio.run(main())


def text_on_screen(app: IdaApp) -> str:
    """Text of the active screen, row by row, without styles."""
    width, height = app.size
    rows = app.screen._compositor.render_strips()
    assert len(rows) <= height
    return "\n".join(strip.text[:width].rstrip() for strip in rows)


def panel_text(app: IdaApp) -> str:
    """Text of the open panel."""
    return "\n".join(str(widget.render()) for widget in app.screen.query(Static))


def notified(app: IdaApp) -> str:
    """Messages of the app's notifications."""
    return "\n".join(notification.message for notification in app._notifications)


async def settled(app: IdaApp, pilot: Pilot[None]) -> None:
    """Wait until background workers have ended and the screen is drawn."""
    while any(not worker.is_finished for worker in list(app.workers)):
        await pilot.pause(0.01)
    await pilot.pause()
    await pilot.pause()
