"""Keep a Mac from going to sleep while a run goes, and notice where a machine has slept all the same.

`caffeinate` ends with this process. Written from its manual page; not run on a Mac yet. Elsewhere nothing is
done: servers do not sleep.
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
def awake() -> Iterator[bool]:
    """Inside the block a Mac does not sleep by itself; yields whether that was arranged.

    ``-i`` forbids sleep when idle, ``-s`` any sleep while on mains power; ``-w`` makes caffeinate itself
    end with this process, however that ends. A closed lid on battery still sleeps.
    """
    program = shutil.which("caffeinate") if sys.platform == "darwin" else None
    if program is None:
        yield False
        return
    quiet = subprocess.DEVNULL
    child = subprocess.Popen(
        [program, "-i", "-s", "-w", str(os.getpid())], stdin=quiet, stdout=quiet, stderr=quiet
    )
    try:
        yield True
    finally:
        child.terminate()
        child.wait()


ASLEEP_S = 30.0
"""A smaller difference of the clocks is a correction of the time of day."""


class Sleep:
    """Notices that the machine has slept: the time of day went on, the monotonic clock stood still.

    So it is on macOS and Linux, whose monotonic clocks leave sleep out.

    Args:
        wall: seconds, the time of day.
        running: seconds that the machine was awake.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        running: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall, self._running = wall, running
        self._ahead = wall() - running()

    def look(self) -> float:
        """Seconds slept since the last look; 0 where it was awake."""
        ahead = self._wall() - self._running()
        slept, self._ahead = ahead - self._ahead, ahead
        return slept if slept >= ASLEEP_S else 0.0
