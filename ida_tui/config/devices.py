"""Device that a run will probably use, and sizes that it computes with, known without importing torch."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from ida_tui.config.schema import Config, DeviceName

METAL_LENGTH_BUCKET = 64
"""Multiple to which Metal rounds batch lengths up, because it caches a graph and memory for each length."""

PACKED_BYTES = 512 * 2**20
"""Limit of the copies of weights that a rollout on the CPU multiplies by."""
MAX_PACKED_WEIGHT = 128 * 2**20
"""Largest weight that is copied, in bytes. A copy of a larger output layer would be most of a step's peak."""


def decoding_rows(rows: int) -> int:
    """Number of rows that are computed for this many: one of a few, because each has its own kernels."""
    if rows <= 4:
        return 4 if rows == 3 else rows
    multiple = 8 if rows <= 64 else 16 if rows <= 256 else 64
    return -(-rows // multiple) * multiple


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
