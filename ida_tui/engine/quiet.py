"""Capture of the libraries' warnings and log records as events, instead of terminal output."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ida_tui.events.types import Noticed

LIBRARY_LOGGERS = (
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "torch",
    "huggingface_hub",
)
IGNORED_WARNINGS = (
    # torch warns that Metal has no pinned memory, even though the data loader does not use it.
    "pin_memory",
    # trl.GRPOTrainer itself uses the deprecated name of activation checkpointing.
    "gradient_checkpointing",
    # Failed verdicts are already counted and shown with their reasons.
    "All reward functions returned None",
    "use_cache=True` is incompatible",
    # It is intended that the tokenizer's special tokens are written to the model's configuration.
    "tokenizer has new PAD/BOS/EOS tokens",
)


@contextmanager
def capture_library_output(emit: Callable[[Noticed], object]) -> Iterator[None]:
    """Inside the block, emit the libraries' warnings and log records as notices, each text once."""
    seen: set[str] = set()

    def notice(source: str, text: str) -> None:
        text = " ".join(text.split())[:500]
        if text not in seen and not any(expected in text for expected in IGNORED_WARNINGS):
            seen.add(text)
            emit(Noticed(level="warning", source=source, text=text))

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notice(record.name.partition(".")[0], record.getMessage())

    _disable_progress_bars()
    handler = Handler(level=logging.WARNING)
    previous = []
    for name in LIBRARY_LOGGERS:
        logger = logging.getLogger(name)
        previous.append((logger, list(logger.handlers), logger.propagate))
        logger.handlers, logger.propagate = [handler], False
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        # Deprecation warnings are for developers of the libraries, not for users of this program.
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = lambda message, category, *_: notice(category.__name__, str(message))
        try:
            yield
        finally:
            for logger, handlers, propagate in previous:
                logger.handlers, logger.propagate = handlers, propagate


def _disable_progress_bars() -> None:
    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
