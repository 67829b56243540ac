"""Peak memory of a run in each phase, from its memory samples."""

from __future__ import annotations

from collections.abc import Mapping

from ida_tui.events import types as ev


def run_memory(run: ev.RunStarted | None, sample: ev.MemorySampled) -> int:
    """Memory of the run in bytes, as its memory plan counts it.

    With CUDA the plan counts the memory of the device; on other devices, including Metal, it counts the
    memory of the process.
    """
    if run is not None and run.device == "cuda":
        return (sample.device_tensors or 0) + (sample.device_cache or 0)
    return sample.process


def update_phase_peaks(
    peaks: Mapping[ev.Phase, int], run: ev.RunStarted | None, sample: ev.MemorySampled
) -> Mapping[ev.Phase, int]:
    """Peak memory of each phase in bytes, updated with one more sample."""
    used = run_memory(run, sample)
    if used <= peaks.get(sample.phase, 0):
        return peaks
    return {**peaks, sample.phase: used}
