"""Memory of an NVIDIA GPU, asked of its driver without importing torch."""

from __future__ import annotations

import subprocess
from functools import cache

QUERY = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
QUERY_TIMEOUT_S = 5.0


@cache
def gpu_memory_bytes() -> float | None:
    """Bytes of the smallest GPU of this machine; None without an NVIDIA driver."""
    try:
        answer = subprocess.run(
            QUERY, capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=True
        )
        return min(float(line) for line in answer.stdout.splitlines()) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
