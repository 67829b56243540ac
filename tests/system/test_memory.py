"""Memory sampling of the process and the device, checked against the kernel's figures."""

from __future__ import annotations

import json
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from ida_tui.engine.device.device import memory as device_memory
from ida_tui.engine.device.memory_monitor import SAMPLE_INTERVAL_S
from ida_tui.system import memory
from ida_tui.system.memory import DeviceMemory, Footprint, MemorySensor, parse_footprint

GAUGE = """
import json, threading
from pathlib import Path
import numpy
from ida_tui.engine.device import memory_monitor

def resident():
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) * 1024

arrival = threading.Condition()
samples = []

def record(sample):
    with arrival:
        samples.append(sample)
        arrival.notify_all()

def next_sample():
    # The sample after the next one was begun after this call.
    with arrival:
        count = len(samples) + 2
        arrival.wait_for(lambda: len(samples) >= count)
        sample = samples[-1]
        return {"gauge": sample.process, "kernel": resident(), "peak": sample.process_peak}

memory_monitor.SAMPLE_INTERVAL_S = 0.01
with memory_monitor.MemoryMonitor(record):
    figures = [next_sample()]
    array = numpy.ones(100_000_000)
    figures.append(next_sample())
    del array
    figures.append(next_sample())
print(json.dumps(figures))
"""


def test_samples_follow_an_array_that_is_allocated_and_freed_to_three_percent() -> None:
    result = subprocess.run(
        [sys.executable, "-c", GAUGE], capture_output=True, text=True, check=True
    )
    before, allocated, after = json.loads(result.stdout)
    for moment in (before, allocated, after):
        assert moment["gauge"] == pytest.approx(moment["kernel"], rel=0.03)
    assert allocated["gauge"] - before["gauge"] == pytest.approx(8e8, rel=0.03)
    assert allocated["gauge"] - after["gauge"] == pytest.approx(8e8, rel=0.03)
    assert after["peak"] == pytest.approx(allocated["gauge"], rel=0.03)


def test_memory_is_sampled_at_least_once_a_second() -> None:
    assert SAMPLE_INTERVAL_S < 1


def test_a_peak_between_two_samples_is_recorded() -> None:
    spike = (
        "from ida_tui.system.memory import MemorySensor\n"
        "sensor = MemorySensor()\n"
        "first = sensor.sample()\n"
        "data = b'x' * 400_000_000\n"
        "del data\n"
        "print(sensor.sample().process_peak - first.process)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", spike], capture_output=True, text=True, check=True
    )
    assert int(result.stdout) == pytest.approx(400e6, rel=0.05)


def test_the_trainers_device_figures_are_passed_on_unchanged() -> None:
    sample = MemorySensor().sample(DeviceMemory(tensors=5, cache=7, limit=99))
    assert (sample.device_tensors, sample.device_cache, sample.device_limit) == (5, 7, 99)
    assert device_memory("cpu") is None


# --- macOS, from its headers ----------------------------------------------------------------


def rusage_v4() -> bytes:
    """`struct rusage_info_v4` as `proc_pid_rusage` fills it: a UUID of 16 bytes, then 33 words of 64 bits.

    The layout follows the public header; it was not recorded on a Mac. Each word holds its
    index, in millions.
    """
    words = array("Q", [0, 0, *(number * 1_000_000 for number in range(2, 35))])
    return words.tobytes()


def test_the_footprint_is_read_from_the_kernels_struct() -> None:
    words = array("Q", rusage_v4())
    # ri_phys_footprint follows ri_resident_size (8); the lifetime peak follows ri_logical_writes (29).
    assert parse_footprint(words) == Footprint(current=9_000_000, peak=30_000_000)


def test_on_a_mac_footprint_and_pressure_come_from_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = array("Q", rusage_v4())
    calls: list[str] = []

    class Library:
        """The functions of libSystem that are called."""

        def proc_pid_rusage(self, pid: int, flavor: int, buffer: object) -> int:
            calls.append(f"rusage {flavor}")
            for place, word in enumerate(words):
                buffer._obj[place] = word  # type: ignore[attr-defined]
            return 0

        def sysctlbyname(self, name: bytes, old: object, *rest: object) -> int:
            calls.append(name.decode())
            old._obj.value = 2  # type: ignore[attr-defined]
            return 0

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda path: Library())
    monkeypatch.setattr(sys, "platform", "darwin")
    sample = MemorySensor().sample()
    assert (sample.process, sample.pressure) == (9_000_000, 2)
    assert {"rusage 4", "kern.memorystatus_vm_pressure_level"} <= set(calls)


def test_without_the_kernels_footprint_the_resident_size_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not Path(memory.MACOS_LIBRARY).exists()
    sample = MemorySensor().sample()
    assert sample.process > 10_000_000
    assert sample.pressure is None
