"""The seam between the engine and the device: choosing it, its memory, its random numbers.

Everything that is particular to Metal or CUDA and is not about number formats is in this file. Only
the trainer's thread may call it: two threads inside ``torch.mps`` can crash the process.

What concerns Metal (mps) was written from public reports and has not been run on a Mac yet.
"""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch

from ida_tui.config.schema import Device, DeviceName
from ida_tui.errors import ExitCode, IdaError
from ida_tui.system import allocator
from ida_tui.system.memory import DeviceMemory


def choose(asked: Device) -> DeviceName:
    """The device to train on: the one asked for, or the best there is (mps, then cuda, then cpu).

    Raises:
        IdaError: the device that was asked for by name is not there (exit code 5).
    """
    present = available()
    if asked == "auto":
        return present[0]
    if asked not in present:
        raise IdaError(
            f"device {asked} is not available on this machine: {_why_absent(asked)}",
            f"device={present[0]} uses what is here; device=auto chooses by itself",
            code=ExitCode.DEVICE_UNUSABLE,
        )
    return asked


def available() -> list[DeviceName]:
    """The devices of this machine, best first; never empty."""
    devices: list[DeviceName] = []
    if torch.backends.mps.is_available():
        devices.append("mps")
    if torch.cuda.is_available():
        devices.append("cuda")
    return [*devices, "cpu"]


def take(device: DeviceName, number: int) -> None:
    """Compute on this one of several CUDA devices.

    Raises:
        IdaError: there are fewer (exit code 5).
    """
    if device != "cuda":
        return
    if number >= torch.cuda.device_count():
        raise IdaError(
            f"process {number + 1} of this machine has no GPU: torch sees {torch.cuda.device_count()}",
            f"start as many processes as GPUs: torchrun --nproc_per_node {torch.cuda.device_count()} …",
            code=ExitCode.DEVICE_UNUSABLE,
        )
    torch.cuda.set_device(number)


def memory(device: DeviceName) -> DeviceMemory | None:
    """What the device's allocator holds, in bytes; None where the device uses the host's memory."""
    if device == "mps":
        tensors = torch.mps.current_allocated_memory()
        cache = max(0, torch.mps.driver_allocated_memory() - tensors)
        return DeviceMemory(tensors, cache, torch.mps.recommended_max_memory())
    if device == "cuda":
        tensors = torch.cuda.memory_allocated()
        cache = max(0, torch.cuda.memory_reserved() - tensors)
        return DeviceMemory(tensors, cache, total_memory(device))
    return None


def total_memory(device: DeviceName) -> int | None:
    """What a device with memory of its own has, in bytes; None where it shares the host's."""
    return int(torch.cuda.get_device_properties(0).total_memory) if device == "cuda" else None


def empty_cache(device: DeviceName) -> None:
    """Give memory that the allocator keeps but nobody uses back to the system."""
    if device == "mps":
        torch.mps.empty_cache()
    elif device == "cuda":
        torch.cuda.empty_cache()


def give_back(device: DeviceName) -> None:
    """Give back what a run that has ended held, as far as libraries let go of it."""
    gc.collect()
    empty_cache(device)
    allocator.give_back()


def length_bucket(device: DeviceName | str) -> int:
    """Lengths of a batch are rounded up to a multiple of this: Metal keeps a graph and memory for each."""
    return 64 if device == "mps" else 1


def leave_a_core() -> None:
    """Let torch compute on all processors but one, which the judge and the screen need.

    OMP_NUM_THREADS, where the user has set it, decides instead.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))


@dataclass(frozen=True, slots=True)
class Randomness:
    """Where torch's random numbers stand, on the host and on the device."""

    device: str
    host_state: torch.Tensor
    device_state: torch.Tensor | None

    @classmethod
    def now(cls, device: str | torch.device) -> Randomness:
        """Where they stand now."""
        name = device.type if isinstance(device, torch.device) else device
        return cls(name, torch.get_rng_state(), _device_rng_state(name))

    def restore(self) -> None:
        """Go on from here."""
        torch.set_rng_state(self.host_state)
        if self.device_state is not None:
            _set_device_rng_state(self.device, self.device_state)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """As they stood here inside the block; outside they go on as if it were not."""
        kept = Randomness.now(self.device)
        self.restore()
        try:
            yield
        finally:
            kept.restore()


def keep_one_device(file: Path) -> None:
    """Of the random numbers that transformers has saved, keep those of this process's CUDA device alone."""
    if not torch.cuda.is_available():
        return
    kept = _kept(file)
    kept["cuda"] = torch.cuda.get_rng_state()
    torch.save(kept, file)


def restore_kept(file: Path) -> None:
    """Go on from the random numbers of a checkpoint, on every rank from the same ones."""
    if not file.is_file():
        return
    kept = _kept(file)
    random.setstate(kept["python"])
    numpy.random.set_state(kept["numpy"])
    torch.set_rng_state(kept["cpu"])
    if "cuda" in kept and torch.cuda.is_available():
        torch.cuda.set_rng_state(kept["cuda"])


def _kept(file: Path) -> dict[str, Any]:
    from transformers.trainer_pt_utils import safe_globals

    with safe_globals():
        found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


@contextmanager
def isolated_randomness(device: DeviceName, seed: int) -> Iterator[None]:
    """Seeded random numbers inside the block; the surrounding sequence goes on as if it were not."""
    kept = Randomness.now(device)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        kept.restore()


def _device_rng_state(device: str) -> torch.Tensor | None:
    if device == "mps":
        return torch.mps.get_rng_state()
    if device == "cuda":
        return torch.cuda.get_rng_state()
    return None


def _set_device_rng_state(device: str, state: torch.Tensor) -> None:
    if device == "mps":
        torch.mps.set_rng_state(state)
    elif device == "cuda":
        torch.cuda.set_rng_state(state)


def _why_absent(device: Device) -> str:
    if device == "mps":
        if not torch.backends.mps.is_built():
            return "this build of torch has no Metal support (it needs macOS on Apple silicon)"
        return "torch finds no Metal GPU (it needs macOS 14 or newer on Apple silicon)"
    return "torch sees no CUDA GPU"
