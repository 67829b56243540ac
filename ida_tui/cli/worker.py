"""The process around `ida_tui.engine.run.worker`: a thread that computes, and signals that are passed on.

A launcher that ends a run signals every process of it. Here that is a request to stop, which rank 0 hears of
at the next exchange, so that all leave the step at the same place and rank 0 can save it.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

from ida_tui.engine.distributed.environment import Place
from ida_tui.engine.run.control import Control
from ida_tui.engine.run.worker import Peer
from ida_tui.errors import ExitCode, IdaError
from ida_tui.util.text import printable


def take_part(place: Place) -> int:
    """Be one of the other ranks until the run ends; returns the exit status of the process."""
    control = Control()
    peer = Peer(place, control)
    codes: list[int] = []

    def compute() -> None:
        try:
            codes.append(peer.follow())
        except IdaError as error:
            print(*map(printable, error.lines()), sep="\n", file=sys.stderr)
            codes.append(int(error.code))

    def stop(number: int, frame: FrameType | None) -> None:
        control.request_stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    thread = threading.Thread(target=compute, name="ida-trainer", daemon=True)
    thread.start()
    while thread.is_alive():
        # In slices: a signal is handled between two of them, whatever the thread is doing.
        thread.join(timeout=0.2)
    if peer.trouble:
        print(printable(f"ida-tui: {place.words} ended: {peer.trouble}"), file=sys.stderr)
    return codes[0] if codes else int(ExitCode.FAILED)
