"""Fast exit of a process that has loaded torch: it skips the interpreter's cleanup."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import tempfile


def fast_exit(exit_code: int) -> None:
    """Exit the process immediately if torch was loaded; otherwise return.

    All files of a run are on disk when its command returns. A normal exit would spend seconds on destroying
    the objects of the libraries while the user waits for the shell prompt.
    """
    if "torch" in sys.modules:
        try:
            for stream in (sys.stdout, sys.stderr):
                # The reader of a pipe may be gone.
                with contextlib.suppress(OSError):
                    stream.flush()
            _remove_temporary_directories()
        finally:
            # After a run that ran out of memory, each line above may fail; its exit code still counts.
            os._exit(exit_code)


def _remove_temporary_directories() -> None:
    """Remove temporary directories that still exist; wandb, if installed, creates two on import."""
    for candidate in gc.get_objects():
        if type(candidate) is tempfile.TemporaryDirectory:
            with contextlib.suppress(OSError):
                candidate.cleanup()
