"""Embedded chat model that ships with the package: weights, tokenizer and build script.

The model has about a million parameters, knows a few dozen everyday topics, and over-refuses on purpose: it
declines every unsafe request and about four in five harmless ones. It can be trained in a minute without a
download or an accelerator. `corpus` generates its training text from `topics.yaml`; `build` writes the files
in `model/`.
"""

from __future__ import annotations

from pathlib import Path


def model_folder() -> Path:
    """The folder to pass to `from_pretrained` (config, weights, tokenizer, chat template)."""
    return Path(__file__).parent / "model"
