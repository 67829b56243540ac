"""Memory figures of this process from ``/proc/self/status`` (Linux)."""

from __future__ import annotations

from pathlib import Path


def status_bytes(name: str) -> int | None:
    """A memory figure in bytes, by the kernel's name (`VmHWM`, `VmData`); None if it is missing."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(
        (int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None
    )
