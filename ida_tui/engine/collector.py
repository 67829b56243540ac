"""Keep Python's garbage collector from stopping everything in the middle of a run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def settled() -> Iterator[None]:
    """Inside the block what exists at its start is no longer searched for garbage.

    The libraries leave about a million objects behind, and a full collection looks at each of them with
    every thread waiting: a third of a second, again and again. They stay for good anyway.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
