"""Memory monitor thread: samples the memory of a run twice a second, without touching the device."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

from ida_tui.events.types import MemorySampled
from ida_tui.system.memory import DeviceMemory, MemorySensor

SAMPLE_INTERVAL_S = 0.5


class MemoryMonitor:
    """Context manager whose thread emits `MemorySampled` events.

    Args:
        emit: receives the samples; must be safe to call from another thread.
        on_sample: called with every sample after `emit`.
    """

    def __init__(
        self,
        emit: Callable[[MemorySampled], object],
        on_sample: Callable[[MemorySampled], object] = lambda sample: None,
    ) -> None:
        self._emit = emit
        self._on_sample = on_sample
        self._sensor = MemorySensor()
        self._device: DeviceMemory | None = None
        self._exit = threading.Event()
        self._thread = threading.Thread(target=self._sample_memory, name="ida-memory", daemon=True)

    def set_device_memory(self, device: DeviceMemory | None) -> None:
        """Set the device's memory for the next samples; only the trainer's thread may read the device."""
        self._device = device

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.set()
        self._thread.join()

    def _sample_memory(self) -> None:
        while True:
            sample = self._sensor.sample(self._device)
            self._emit(sample)
            self._on_sample(sample)
            if self._exit.wait(SAMPLE_INTERVAL_S):
                return
