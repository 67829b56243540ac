"""Setup of torch and the Hugging Face libraries: environment, captured output, garbage collection."""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ida_tui.events.types import Noticed
from ida_tui.planning.hub_models import switch_off_here

LIBRARY_DEFAULTS = {
    # By default oneDNN, and torch's layer above it, cache compiled kernels for 1,024 shapes. Sequence lengths
    # change with every token and step, so the caches would grow to hundreds of megabytes, mostly unused.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
    # The tokenizer's thread pool prints a warning after a fork, and can deadlock.
    "TOKENIZERS_PARALLELISM": "false",
    # Nothing here is compiled by torch, and bitsandbytes would load its compiler, which takes seconds.
    "TORCHDYNAMO_DISABLE": "1",
    # Send no telemetry.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    # Progress bars would write to the terminal, which belongs to the app or the command line.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}
"""Environment variables that must be set before the libraries are imported."""
WAIT_POLICY = "OMP_WAIT_POLICY"
WAITING_DEFAULTS = {
    # How long a thread of torch spins for its next share of work before it sleeps: iterations in GNU's
    # OpenMP, about 50 µs; milliseconds in LLVM's, which torch has on macOS. Waking a sleeping thread takes
    # longer than most products of a token. A thread that spins for longer, however, takes the core from
    # another program that would let the run go on. On two cores of an AMD EPYC, relative to one thread and
    # no other program, two threads take this time for a token of a small model, and for an update; the
    # second pair is with a busy program beside them:
    #   sleep at once    0.93, 0.68    1.10, 1.08
    #   2,000            0.74, 0.57    1.49, 1.25
    #   20,000           0.83, 0.63    2.14, 2.33
    #   100,000          0.82, 0.60    10.0, 5.24
    "GOMP_SPINCOUNT": "2000",
    "KMP_BLOCKTIME": "1",
}
"""How threads wait, unless the user has set `OMP_WAIT_POLICY`."""
LOGGER_PACKAGES = ("wandb", "trackio", "comet_ml")
METAL_HIGH = "PYTORCH_MPS_HIGH_WATERMARK_RATIO"
METAL_LOW = "PYTORCH_MPS_LOW_WATERMARK_RATIO"
LIBRARY_LOGGERS = (
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "torch",
    "huggingface_hub",
    "ida_tui",
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
    # Weights that do not belong to the model are named in an error, or in a line of their own.
    "LOAD REPORT",
    # A checkpoint that torch refuses is reported as damaged.
    "weights_only Unpickler",
)


def set_library_defaults(model_folder: Path | None) -> None:
    """Set `LIBRARY_DEFAULTS` and `WAITING_DEFAULTS`, except for variables that the user has set.

    Args:
        model_folder: the model's folder if it is on this machine. The hub is then switched off as well.
    """
    waiting = {} if WAIT_POLICY in os.environ else WAITING_DEFAULTS
    for name, value in {**LIBRARY_DEFAULTS, **waiting}.items():
        os.environ.setdefault(name, value)
    _set_metal_limits()
    if model_folder is not None:
        switch_off_here()
    # PEFT imports bitsandbytes, which reports that a kernel is missing that no code here would use.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def _set_metal_limits() -> None:
    """Limit Metal's allocator to the recommended working set, and let it free its cache below that.

    Its default limits are above physical memory, so a run would swap instead of failing. torch refuses a
    low limit above the high one; a high limit of 0 means none.
    """
    low, high = _ratio(METAL_LOW), _ratio(METAL_HIGH)
    os.environ.setdefault(METAL_HIGH, str(max(1.0, low or 0.0)))
    os.environ.setdefault(METAL_LOW, str(min(0.9, high or 0.9)))


def _ratio(variable: str) -> float | None:
    try:
        return float(os.environ[variable])
    except (KeyError, ValueError):
        return None  # torch names a value that is no number


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


@contextmanager
def without_loggers() -> Iterator[None]:
    """Inside the block, TRL and transformers do not find the packages that log to other programs.

    They would import each one that is installed, which takes a second, although their own logging is off:
    events go to W&B and Trackio through `events.sinks`. Python finds no module whose entry is None.
    """
    hidden = [name for name in LOGGER_PACKAGES if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def without_gc() -> Iterator[None]:
    """Collect no garbage inside the block: it takes a sixth of the time of importing the libraries."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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


def _disable_progress_bars() -> None:
    import datasets
    from transformers.utils.logging import disable_progress_bar

    datasets.disable_progress_bars()
    disable_progress_bar()
