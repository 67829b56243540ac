"""NVIDIA GPUs of this machine, found without importing torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
ORDER_VARIABLE = "CUDA_DEVICE_ORDER"
_GPU_LINE = re.compile(r"GPU (\d+): ")
_MIG_LINE = re.compile(r"\s+MIG .*\(UUID: (MIG-[^)\s]+)\)")
_TIMEOUT_S = 30.0


def find_gpus() -> tuple[str, ...]:
    """The GPUs that runs may use, as `CUDA_VISIBLE_DEVICES` names them; empty without an NVIDIA driver.

    They are those of `CUDA_VISIBLE_DEVICES` if it is set, else all that `nvidia-smi` lists. A GPU that is
    divided counts as its parts (MIG), because a process can use only one of them.
    """
    visible = os.environ.get(VISIBLE_VARIABLE)
    if visible is not None:
        return _parse_visible(visible)
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        listing = subprocess.run(
            [program, "-L"], capture_output=True, text=True, check=True, timeout=_TIMEOUT_S
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_listing(listing)


def _parse_visible(text: str) -> tuple[str, ...]:
    """The devices up to the first that does not exist, as CUDA reads the variable."""
    gpus: list[str] = []
    for name in map(str.strip, text.split(",")):
        if not re.fullmatch(r"[0-9]+|(GPU|MIG)-[\w/-]+", name) or name in gpus:
            break
        gpus.append(name)
    return tuple(gpus)


def parse_listing(listing: str) -> tuple[str, ...]:
    """The GPUs in the output of `nvidia-smi -L`: the index of each, or the ids of its parts."""
    parts: dict[str, list[str]] = {}
    for line in listing.splitlines():
        if match := _GPU_LINE.match(line):
            parts[match[1]] = []
        elif (match := _MIG_LINE.match(line)) and parts:
            parts[next(reversed(parts))].append(match[1])
    return tuple(name for index, ids in parts.items() for name in (ids or [index]))


def environment_for(gpu: str | None) -> dict[str, str]:
    """The variables of a process that may use only this GPU; None is no restriction."""
    if gpu is None:
        return {}
    # nvidia-smi counts in the order of the bus. The person's CUDA_VISIBLE_DEVICES keeps its own order.
    order = {} if VISIBLE_VARIABLE in os.environ else {ORDER_VARIABLE: "PCI_BUS_ID"}
    return {VISIBLE_VARIABLE: gpu, **order}
