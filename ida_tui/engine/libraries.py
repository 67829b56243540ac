"""Environment variables that must be set before torch and the Hugging Face libraries are imported."""

from __future__ import annotations

import os
from pathlib import Path

LIBRARY_DEFAULTS = {
    # Metal's default limits are above physical memory, so a run would swap instead of failing. Limit the
    # allocator to the recommended working set, and let it free its cache below that.
    "PYTORCH_MPS_HIGH_WATERMARK_RATIO": "1.0",
    "PYTORCH_MPS_LOW_WATERMARK_RATIO": "0.9",
    # Threads that spin while waiting make a run many times slower as soon as another program needs the
    # core. Sleeping costs a few microseconds.
    "OMP_WAIT_POLICY": "PASSIVE",
    # By default oneDNN, and torch's layer above it, cache compiled kernels for 1,024 shapes. Sequence lengths
    # change with every token and step, so the caches would grow to hundreds of megabytes, mostly unused.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
    # The tokenizer's thread pool prints a warning after a fork, and can deadlock.
    "TOKENIZERS_PARALLELISM": "false",
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


def set_library_defaults(model_folder: Path | None) -> None:
    """Set these variables unless the user has set them.

    Args:
        model_folder: the model's folder if it is on this machine. Then the hub is switched off, too.
    """
    for name, value in LIBRARY_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if model_folder is not None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
