"""Speed of a device, measured: how fast it reads memory and how fast it multiplies matrices."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from ida_tui.engine.device.onednn import linear

READ_BYTES = 64 * 2**20
"""Size of the block that is read: larger than the caches of most processors."""
MATRIX_SIZE = 768
REPEATS = 4
"""Measurements of each speed; the fastest counts, because other programs can only slow one down."""
MAX_SECONDS = 0.2
"""Time after which a speed is not measured again."""


@dataclass(frozen=True, slots=True)
class DeviceSpeed:
    """Measured speed of a device with the threads that torch uses now."""

    read_bytes_per_s: float
    flops_per_s: float
    """Floating-point operations per second of a large matrix product."""

    def least_seconds(self, read_bytes: float, flops: float) -> float:
        """Shortest time in which this much memory can be read and this much arithmetic be done at once."""
        return max(read_bytes / self.read_bytes_per_s, flops / self.flops_per_s)


def measure_speed(device: torch.device, dtype: torch.dtype) -> DeviceSpeed:
    """The speed of a device, measured once in a process; takes less than a tenth of a second on a CPU.

    Args:
        device: the device that trains.
        dtype: number format of the matrix product, one that the device multiplies.
    """
    return _measure(device, dtype, torch.get_num_threads())


@cache
def _measure(device: torch.device, dtype: torch.dtype, threads: int) -> DeviceSpeed:
    """The speed with this number of threads, which torch uses now."""
    block = torch.ones(READ_BYTES // 4, device=device)
    matrix = torch.ones(MATRIX_SIZE, MATRIX_SIZE, device=device, dtype=dtype)
    with torch.no_grad():
        read_s = _fastest(lambda: block.sum())
        multiply_s = _fastest(lambda: linear(matrix, matrix, None)[-1, -1])
    return DeviceSpeed(READ_BYTES / read_s, 2 * MATRIX_SIZE**3 / multiply_s)


def _fastest(compute: Callable[[], torch.Tensor]) -> float:
    """Seconds of the fastest of several calls, including the wait for their result."""
    compute().item()
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < MAX_SECONDS:
        started = time.perf_counter()
        compute().item()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
