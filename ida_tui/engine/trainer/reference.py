"""Reference model of a run that trains all weights, loaded the same way as its policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from trl.trainer import grpo_trainer


@contextmanager
def reference_loaded_by(load: Callable[[], Any] | None) -> Iterator[None]:
    """Inside the block, `trl.GRPOTrainer` gets its reference model from `load` (None: from its own loader).

    TRL builds the reference from the name of the policy alone: it reads the architecture from the default
    branch of the repository, and does not know the revision and the file format of the policy.
    """
    if load is None:
        yield
        return
    original = grpo_trainer.create_model_from_path
    grpo_trainer.create_model_from_path = lambda *_, **__: load()
    try:
        yield
    finally:
        grpo_trainer.create_model_from_path = original
