"""Keep the libraries from writing to a terminal that is not theirs; what they say becomes notices."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ida_tui.events.types import Noticed

LIBRARIES = ("transformers", "trl", "peft", "accelerate", "datasets", "torch", "huggingface_hub")
EXPECTED = (
    # Metal lacks pinned memory and says so for a loader that was told not to use it.
    "pin_memory",
    # trl.GRPOTrainer itself asks for the old name of activation checkpointing.
    "gradient_checkpointing",
    # Unscored completions are counted and shown by us, with their reasons.
    "All reward functions returned None",
    "use_cache=True` is incompatible",
    # The tokenizer's special tokens are written into the model's configuration by design.
    "tokenizer has new PAD/BOS/EOS tokens",
)


@contextmanager
def captured(emit: Callable[[Noticed], object]) -> Iterator[None]:
    """Inside the block warnings and log records of the libraries are emitted, each text once."""
    seen: set[str] = set()

    def notice(source: str, text: str) -> None:
        text = " ".join(text.split())[:500]
        if text not in seen and not any(expected in text for expected in EXPECTED):
            seen.add(text)
            emit(Noticed(level="warning", source=source, text=text))

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notice(record.name.partition(".")[0], record.getMessage())

    _turn_progress_bars_off()
    handler = Handler(level=logging.WARNING)
    kept = []
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        kept.append((logger, list(logger.handlers), logger.propagate))
        logger.handlers, logger.propagate = [handler], False
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        # Notes from one library's developers to another's are of no use to the person who trains.
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = lambda message, category, *_: notice(category.__name__, str(message))
        try:
            yield
        finally:
            for logger, handlers, propagate in kept:
                logger.handlers, logger.propagate = handlers, propagate


def _turn_progress_bars_off() -> None:
    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
