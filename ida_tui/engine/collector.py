"""Garbage collection during a run: existing objects are frozen to avoid long pauses."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def frozen_gc() -> Iterator[None]:
    """Exclude all objects that exist now from garbage collection inside the block.

    The libraries create about a million permanent objects. A full collection visits each of them while every
    thread waits, which takes about a third of a second each time.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
