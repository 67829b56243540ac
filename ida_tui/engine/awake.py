"""Keep a Mac from going to sleep while a run goes: `caffeinate`, which ends with this process.

Written from its manual page; not run on a Mac yet. Elsewhere nothing is done: servers do not sleep.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator


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
