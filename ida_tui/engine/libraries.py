"""Environment variables that must be set before torch and the Hugging Face libraries are imported."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULTS = {
    # Metal's default watermarks lie above physical memory, so a job swaps instead of failing: cap the
    # allocator at the recommended working set and let it collect its cache below that.
    "PYTORCH_MPS_HIGH_WATERMARK_RATIO": "1.0",
    "PYTORCH_MPS_LOW_WATERMARK_RATIO": "0.9",
    # Threads that wait for each other by spinning make a run many times slower as soon as anything
    # else wants the core; sleeping costs a few microseconds.
    "OMP_WAIT_POLICY": "PASSIVE",
    # oneDNN, and torch's layer over it, keep compiled products for 1,024 shapes. Lengths change with every
    # token and step, so that a run would gather hundreds of megabytes of them; few are ever met again.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
    # The tokenizer's own thread pool warns about, and can deadlock after, a fork.
    "TOKENIZERS_PARALLELISM": "false",
    # Nothing but the model download ever leaves the machine unasked.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    # Progress bars write to the terminal that a face of the program owns.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}


def prepare(model_path: Path | None) -> None:
    """Set what the user has not set.

    Args:
        model_path: the model's folder where it is on this machine; then no library needs to ask the
            hub for anything, and none does.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if model_path is not None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
