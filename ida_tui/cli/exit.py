"""End a process that has used torch without waiting for it to be taken apart."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import tempfile


def leave(code: int) -> None:
    """End the process here if torch was loaded; otherwise return.

    Everything of a run is on disk when its command returns. Python would take the libraries apart first,
    object by object, with a person waiting seconds for their prompt.
    """
    if "torch" in sys.modules:
        for stream in (sys.stdout, sys.stderr):
            # Whoever read it may be gone.
            with contextlib.suppress(OSError):
                stream.flush()
        _clear_away()
        os._exit(code)


def _clear_away() -> None:
    """Remove temporary directories that are still held; wandb, where installed, makes two when imported."""
    for thing in gc.get_objects():
        if type(thing) is tempfile.TemporaryDirectory:
            with contextlib.suppress(OSError):
                thing.cleanup()
