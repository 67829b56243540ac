"""The tiny chat model that ships: weights, tokenizer, and the script that builds them.

It has about a million parameters, knows a few dozen everyday topics, and over-refuses on purpose:
it declines every unsafe request and about four in five harmless ones. It is here to be trained, and
to be trained in a minute without a download or an accelerator. `corpus` writes its training text
from `topics.yaml`; `build` makes the files in `model/`.
"""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """The folder to give to `from_pretrained` (config, weights, tokenizer, chat template)."""
    return Path(__file__).parent / "model"
