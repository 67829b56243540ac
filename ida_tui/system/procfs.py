"""What Linux says of this process in ``/proc/self/status``."""

from __future__ import annotations

from pathlib import Path


def status(name: str) -> int | None:
    """A figure of memory in bytes, by the kernel's name (`VmHWM`, `VmData`); None where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith(f"{name}:")), None)
