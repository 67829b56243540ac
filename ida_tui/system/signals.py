"""Signal handling of the training commands: handlers for pause and stop, installed while a run trains."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a request to end, and a closed terminal."""


@contextmanager
def handle_signals(handlers: Mapping[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """Inside the block, each signal calls its handler; the previous handlers are restored at the end.

    If SIGHUP is ignored, as under nohup, it stays ignored.
    """
    previous = {}
    for number, handler in handlers.items():
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue
        previous[number] = signal.signal(number, _without_arguments(handler))
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)


def _without_arguments(handler: Callable[[], object]) -> Callable[[int, FrameType | None], None]:
    def call(number: int, frame: FrameType | None) -> None:
        handler()

    return call
