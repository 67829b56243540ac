"""The memory gauge: what it says is what the kernel says, soon, and cheaply."""

from __future__ import annotations

import json
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from ida_tui.engine.device.device import memory as device_memory
from ida_tui.system import memory
from ida_tui.system.memory import DeviceMemory, Footprint, MemorySensor, parse_footprint

GAUGE = """
import json, threading, time
from pathlib import Path
import torch
from ida_tui.engine.device.memory_monitor import MemoryMonitor

def resident():
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) * 1024

came = threading.Condition()
samples = []

def take(sample):
    with came:
        samples.append((time.monotonic(), sample))
        came.notify_all()

def next_one():
    with came:
        began = time.monotonic()
        came.wait_for(lambda: samples and samples[-1][0] > began, timeout=5)
        taken, sample = samples[-1]
        return {"after": taken - began, "gauge": sample.process, "kernel": resident(),
                "peak": sample.process_peak}

with MemoryMonitor(take):
    found = [next_one()]
    tensor = torch.ones(500_000_000)
    found.append(next_one())
    del tensor
    found.append(next_one())
print(json.dumps(found))
"""


def test_the_gauge_follows_a_tensor_of_two_gigabytes_within_a_second_and_three_percent() -> None:
    done = subprocess.run([sys.executable, "-c", GAUGE], capture_output=True, text=True, check=True)
    before, held, after = json.loads(done.stdout)
    for moment in (before, held, after):
        assert moment["after"] < 1.0
        assert moment["gauge"] == pytest.approx(moment["kernel"], rel=0.03)
    assert held["gauge"] - before["gauge"] == pytest.approx(2e9, rel=0.03)
    assert held["gauge"] - after["gauge"] == pytest.approx(2e9, rel=0.03)
    assert after["peak"] == pytest.approx(held["gauge"], rel=0.03)


def test_a_peak_between_two_samples_is_not_missed() -> None:
    spike = (
        "from ida_tui.system.memory import MemorySensor\n"
        "sensor = MemorySensor()\n"
        "first = sensor.sample()\n"
        "held = b'x' * 400_000_000\n"
        "del held\n"
        "print(sensor.sample().process_peak - first.process)\n"
    )
    done = subprocess.run([sys.executable, "-c", spike], capture_output=True, text=True, check=True)
    assert int(done.stdout) == pytest.approx(400e6, rel=0.05)


def test_what_the_trainer_says_of_the_device_is_passed_on_unchanged() -> None:
    sample = MemorySensor().sample(DeviceMemory(tensors=5, cache=7, limit=99))
    assert (sample.device_tensors, sample.device_cache, sample.device_limit) == (5, 7, 99)
    assert device_memory("cpu") is None


# --- macOS, from its headers ----------------------------------------------------------------


def rusage_v4() -> bytes:
    """`struct rusage_info_v4` as `proc_pid_rusage` fills it: a UUID of 16 bytes, then 33 words of 64 bits.

    Laid out by the public header, not recorded on a Mac: each word holds its own number, in millions.
    """
    words = array("Q", [0, 0, *(number * 1_000_000 for number in range(2, 35))])
    return words.tobytes()


def test_the_footprint_is_read_from_the_kernels_struct() -> None:
    words = array("Q", rusage_v4())
    # ri_phys_footprint follows ri_resident_size (8); the lifetime's peak follows ri_logical_writes (29).
    assert parse_footprint(words) == Footprint(current=9_000_000, peak=30_000_000)


def test_on_a_mac_footprint_and_pressure_are_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    words = array("Q", rusage_v4())
    asked: list[str] = []

    class Library:
        """libSystem, as far as it is called."""

        def proc_pid_rusage(self, pid: int, flavour: int, buffer: object) -> int:
            asked.append(f"rusage {flavour}")
            for place, word in enumerate(words):
                buffer._obj[place] = word  # type: ignore[attr-defined]
            return 0

        def sysctlbyname(self, name: bytes, old: object, *rest: object) -> int:
            asked.append(name.decode())
            old._obj.value = 2  # type: ignore[attr-defined]
            return 0

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda path: Library())
    monkeypatch.setattr(sys, "platform", "darwin")
    sample = MemorySensor().sample()
    assert (sample.process, sample.pressure) == (9_000_000, 2)
    assert {"rusage 4", "kern.memorystatus_vm_pressure_level"} <= set(asked)


def test_where_the_kernel_does_not_answer_the_resident_size_stands_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not Path(memory.MACOS_LIBRARY).exists()
    sample = MemorySensor().sample()
    assert sample.process > 10_000_000
    assert sample.pressure is None
