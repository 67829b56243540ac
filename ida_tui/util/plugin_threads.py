"""Threads for the code of plugins, which may raise anything, never return, or print.

They are daemon threads: code that never returns delays neither a stop nor the end of the process.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ida_tui.util.plugin_output import THREAD_NAME, redirect_output

T = TypeVar("T")
OnDone = Callable[[T | None, "PluginFailure | None"], object]
"""Called once with the result, or with the failure; in the thread of the plugin."""

POLL_INTERVAL_S = 0.05
"""Seconds between two checks of `should_stop`."""
MAX_FAILURE_CHARS = 300


class PluginFailure(Exception):
    """A plugin's code failed; the text is what it raised, or that it does not return."""


class PluginTimeout(PluginFailure):
    """A plugin's code did not return in time."""


class PluginStopped(Exception):
    """The wait for a plugin's code ended because a stop was requested."""


def start_call(call: Callable[[], T], on_done: OnDone[T]) -> None:
    """Run a plugin's code in a thread of its own; returns immediately."""

    def work() -> None:
        try:
            result = call()
        except BaseException as error:  # also SystemExit and KeyboardInterrupt
            on_done(None, PluginFailure(_describe(error)))
        else:
            on_done(result, None)

    redirect_output()
    threading.Thread(target=work, name=THREAD_NAME, daemon=True).start()


def run_call(
    call: Callable[[], T], timeout_s: float, *, should_stop: Callable[[], bool] = lambda: False
) -> T:
    """Run a plugin's code in a thread of its own, and wait for its result.

    Args:
        call: the code of the plugin.
        timeout_s: longest wait, in seconds.
        should_stop: polled while the code runs.

    Raises:
        PluginFailure: the code raised something, or did not return in time.
        PluginStopped: `should_stop` returned true.
    """
    outcomes: list[tuple[T | None, PluginFailure | None]] = []
    finished = threading.Event()

    def on_done(result: T | None, failure: PluginFailure | None) -> None:
        outcomes.append((result, failure))
        finished.set()

    deadline = time.monotonic() + timeout_s
    start_call(call, on_done)
    while not finished.wait(POLL_INTERVAL_S):
        if should_stop():
            raise PluginStopped
        if time.monotonic() >= deadline:
            raise PluginTimeout(f"it does not return (waited {timeout_s:g} s)")
    [(result, failure)] = outcomes
    if failure is not None:
        raise failure
    return result  # type: ignore[return-value]  # None only if T allows it


class PluginLoop:
    """An event loop on a thread of its own, for the coroutines of a plugin. It ends with the process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        redirect_output()
        threading.Thread(target=self._run, name=THREAD_NAME, daemon=True).start()

    def start_call(
        self, call: Callable[[], Awaitable[T]], on_done: OnDone[T]
    ) -> Callable[[], object]:
        """Await what `call` returns; returns a function that cancels it."""

        async def work() -> None:
            try:
                result = await call()
            except BaseException as error:  # also SystemExit, which would end the loop
                on_done(None, PluginFailure(_describe(error)))
            else:
                on_done(result, None)

        future: Any = asyncio.run_coroutine_threadsafe(work(), self._loop)
        return future.cancel  # type: ignore[no-any-return]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        while True:
            try:
                self._loop.run_forever()
            except BaseException:  # raised by a task that the plugin started
                continue


def _describe(error: BaseException) -> str:
    """What a plugin raised, on one line."""
    try:
        text = " ".join(f"{type(error).__name__}: {error}".split())
    except BaseException:  # an error without a text
        text = type(error).__name__
    return text[:MAX_FAILURE_CHARS].removesuffix(":")
