"""Device that a run will probably use, determined without importing torch."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from ida_tui.config.schema import Config, DeviceName

METAL_LENGTH_BUCKET = 64
"""Multiple to which Metal rounds batch lengths up, because it caches a graph and memory for each length."""


def guess_device() -> DeviceName:
    """The device that `auto` most likely selects on this machine."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    if any(Path(p).exists() for p in ("/dev/nvidia0", "/dev/nvidiactl")):
        return "cuda"
    return "cpu"


def resolve_device(config: Config) -> DeviceName:
    """The configured device; for `auto`, the guess for this machine."""
    return guess_device() if config.device == "auto" else config.device
