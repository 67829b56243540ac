"""Sleep prevention on a Mac during a run, and detection of sleep on any machine.

`caffeinate` ends with this process. Its flags are taken from its manual page and have not been tested on a
Mac. On other systems nothing is done: servers do not sleep.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def prevent_sleep() -> Iterator[bool]:
    """Keep a Mac awake inside the block; yields whether caffeinate was started.

    `-i` prevents idle sleep, `-s` prevents all sleep on mains power, and `-w` makes caffeinate end
    when this process ends, for any reason. A Mac with a closed lid on battery still sleeps.
    """
    caffeinate = shutil.which("caffeinate") if sys.platform == "darwin" else None
    if caffeinate is None:
        yield False
        return
    devnull = subprocess.DEVNULL
    process = subprocess.Popen(
        [caffeinate, "-i", "-s", "-w", str(os.getpid())],
        stdin=devnull,
        stdout=devnull,
        stderr=devnull,
    )
    try:
        yield True
    finally:
        process.terminate()
        process.wait()


MIN_SLEEP_S = 30.0
"""Shortest detected sleep; a smaller gap between the clocks is a correction of the time of day."""


class SleepDetector:
    """Detects that the machine slept: the time of day advanced and the monotonic clock did not.

    This works on macOS and Linux, whose monotonic clocks exclude sleep.

    Args:
        wall_clock: returns the time of day, in seconds.
        monotonic_clock: returns a monotonic time without sleep, in seconds.
    """

    def __init__(
        self,
        wall_clock: Callable[[], float] = time.time,
        monotonic_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall_clock, self._monotonic_clock = wall_clock, monotonic_clock
        self._clock_difference = wall_clock() - monotonic_clock()

    def seconds_slept(self) -> float:
        """Seconds slept since the last call; 0 if the machine was awake."""
        ahead = self._wall_clock() - self._monotonic_clock()
        slept, self._clock_difference = ahead - self._clock_difference, ahead
        return slept if slept >= MIN_SLEEP_S else 0.0
