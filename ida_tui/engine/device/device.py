"""Device selection, device memory and random number state, for CPU, CUDA and Metal (mps).

Everything specific to Metal or CUDA, except number formats, is in this file. Only the trainer's thread may
call it: two threads inside `torch.mps` can crash the process.

The Metal code was written from public reports and has not been tested on a Mac yet.
"""

from __future__ import annotations

import gc
import random
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch

from ida_tui.config.devices import METAL_LENGTH_BUCKET
from ida_tui.config.schema import Device, DeviceName
from ida_tui.errors import ExitCode, IdaError
from ida_tui.events.types import RankFigures
from ida_tui.system import allocator
from ida_tui.system.memory import DeviceMemory, MemorySensor
from ida_tui.system.memory_limit import memory_limit


def choose_device(requested: Device) -> DeviceName:
    """The device to train on: the requested one, or for `auto` the best one (mps, then cuda, then cpu).

    Raises:
        IdaError: the requested device is not available (exit code 5).
    """
    devices = available_devices()
    if requested == "auto":
        return devices[0]
    if requested not in devices:
        raise IdaError(
            f"device {requested} is not available on this machine: {_unavailable_reason(requested)}",
            f"Set device={devices[0]}, or device=auto to use the best available device",
            code=ExitCode.DEVICE_UNUSABLE,
        )
    return requested


def available_devices() -> list[DeviceName]:
    """The devices of this machine, best first; never empty."""
    devices: list[DeviceName] = []
    if torch.backends.mps.is_available():
        devices.append("mps")
    if torch.cuda.is_available():
        devices.append("cuda")
    return [*devices, "cpu"]


def select_cuda_device(device: DeviceName, index: int) -> None:
    """Make the CUDA device with this number the current one; other devices need nothing.

    Raises:
        IdaError: there is no CUDA device with this number (exit code 5).
    """
    if device != "cuda":
        return
    if index >= torch.cuda.device_count():
        raise IdaError(
            f"process {index + 1} of this machine has no GPU: torch sees {torch.cuda.device_count()}",
            f"Start one process per GPU: torchrun --nproc_per_node {torch.cuda.device_count()} …",
            code=ExitCode.DEVICE_UNUSABLE,
        )
    torch.cuda.set_device(index)


def memory(device: DeviceName) -> DeviceMemory | None:
    """Memory held by the device's allocator, in bytes; None for a device that uses host memory."""
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
    """Total memory of the current device, in bytes; None for a device that shares host memory."""
    if device != "cuda":
        return None
    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)


def usable_memory(device: DeviceName) -> int:
    """Memory that this process can use, in bytes: the device's own, else that of the machine or container."""
    return total_memory(device) or memory_limit().total


def empty_cache(device: DeviceName) -> None:
    """Return cached, unused device memory to the system."""
    if device == "mps":
        torch.mps.empty_cache()
    elif device == "cuda":
        torch.cuda.empty_cache()


def free_memory(device: DeviceName) -> None:
    """Return the memory of a run that has ended to the system, except what libraries still reference."""
    gc.collect()
    empty_cache(device)
    allocator.release_free_memory()


def length_bucket(device: DeviceName | str) -> int:
    """Multiple to which batch lengths are rounded up: Metal caches a graph and memory for each length."""
    return METAL_LENGTH_BUCKET if device == "mps" else 1


def measure_rank(tokens: int, seconds: Mapping[str, float], device: Any) -> RankFigures:
    """Memory use and generation speed of this process in a step, for `StepFinished.ranks`.

    Args:
        tokens: number of tokens that the process has generated in the step.
        seconds: seconds per phase of the step.
        device: the torch device that it computes on.
    """
    sample = MemorySensor().sample(memory(device.type))
    generate_s = seconds.get("generate", 0.0)
    return RankFigures(
        host=socket.gethostname(),
        process_memory=sample.process,
        device_tensors=sample.device_tensors,
        device_cache=sample.device_cache,
        tokens=tokens,
        tokens_per_s=round(tokens / generate_s, 1) if generate_s else 0.0,
    )


@dataclass(frozen=True, slots=True)
class RngState:
    """State of torch's random number generators, on the host and on the device."""

    device: str
    host_state: torch.Tensor
    device_state: torch.Tensor | None

    @classmethod
    def capture(cls, device: str | torch.device) -> RngState:
        """The current state."""
        name = device.type if isinstance(device, torch.device) else device
        return cls(name, torch.get_rng_state(), _device_rng_state(name))

    def restore(self) -> None:
        """Set the generators to this state."""
        torch.set_rng_state(self.host_state)
        if self.device_state is not None:
            _set_device_rng_state(self.device, self.device_state)

    @contextmanager
    def use(self) -> Iterator[None]:
        """Use this state inside the block; afterwards the previous state is restored."""
        previous = RngState.capture(self.device)
        self.restore()
        try:
            yield
        finally:
            previous.restore()


def keep_own_cuda_rng_state(file: Path) -> None:
    """Reduce the random number state that transformers saved to this process's CUDA device."""
    if not torch.cuda.is_available():
        return
    states = _load_rng_file(file)
    states["cuda"] = torch.cuda.get_rng_state()
    torch.save(states, file)


def restore_rng_file(file: Path) -> None:
    """Restore the random number state of a checkpoint; it is the same on every rank."""
    if not file.is_file():
        return
    states = _load_rng_file(file)
    random.setstate(states["python"])
    numpy.random.set_state(states["numpy"])
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _load_rng_file(file: Path) -> dict[str, Any]:
    from transformers.trainer_pt_utils import safe_globals

    with safe_globals():
        states: dict[str, Any] = torch.load(file, weights_only=True)
    return states


@contextmanager
def preserved_rng(device: DeviceName) -> Iterator[None]:
    """Restore the random number state of torch, Python and NumPy after the block."""
    previous, python_state, numpy_state = (
        RngState.capture(device),
        random.getstate(),
        numpy.random.get_state(),
    )
    try:
        yield
    finally:
        previous.restore()
        random.setstate(python_state)
        numpy.random.set_state(numpy_state)


@contextmanager
def seeded_rng(device: DeviceName, seed: int) -> Iterator[None]:
    """Use seeded random numbers inside the block; afterwards the previous state is restored."""
    previous = RngState.capture(device)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        previous.restore()


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


def _unavailable_reason(device: Device) -> str:
    if device == "mps":
        if not torch.backends.mps.is_built():
            return "this build of torch has no Metal support (it needs macOS on Apple silicon)"
        return "torch finds no Metal GPU (it needs macOS 14 or newer on Apple silicon)"
    return "torch sees no CUDA GPU"
