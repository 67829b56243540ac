"""Measurement of torch's speed, and of a screen's lateness, with several numbers of threads.

The products are those of a small model: a token of eight rows (`decode`), and the forward and backward pass
of a short batch (`update`). All of it takes less than a second. A measurement says whether it can be
believed: not if other programs needed the processors meanwhile, or if a figure is impossible.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch
from torch.nn import functional

from ida_tui.engine.device.onednn import linear
from ida_tui.system.processors import usable_processors

HIDDEN, INTERMEDIATE, LAYERS, HEADS = 512, 1536, 4, 8
DECODE_ROWS, DECODE_TOKENS, KEYS, UPDATE_ROWS = 8, 4, 128, 256
ROUNDS, ATTEMPTS = 4, 2
"""How often each number of threads is timed, and how often a disturbed measurement is tried."""
MAX_OTHER_LOAD = 0.25
"""Processors that other programs may keep busy during a measurement that counts."""
MAX_OVERSHOOT = 1.15
"""Largest believable speed relative to one thread, per thread."""
TICK_S, TICKS = 0.004, 80
SCREEN_CLOCK = f"""
import json, time
late, due = [], time.monotonic()
for _ in range({TICKS}):
    due = max(due + {TICK_S}, time.monotonic())
    time.sleep(max(0.0, due - time.monotonic()))
    late.append(time.monotonic() - due)
    sum(range(10_000))  # what a screen computes in a tick
print(json.dumps(sorted(late)[round(0.99 * {TICKS}) - 1]))
"""
"""A program that ticks as a screen does, and prints the 99th percentile of its lateness in seconds."""
MAX_CLOCK_S = 2.0


@dataclass(frozen=True, slots=True)
class ThreadTrial:
    """Figures of one number of threads."""

    threads: int
    decode_ms: float
    """Time of one token, in milliseconds."""
    update_ms: float
    """Time of one update, in milliseconds."""
    lateness_ms: float | None = None
    """99th percentile of a screen's lateness beside them, in milliseconds; None if it was not measured."""


@dataclass(frozen=True, slots=True)
class ThreadTrials:
    """Figures of several numbers of threads, fewest first."""

    trials: tuple[ThreadTrial, ...]
    is_reliable: bool
    """Whether no other program disturbed the measurement, and its figures are possible."""


def measure_threads(candidates: Sequence[int]) -> ThreadTrials:
    """Time torch with each of these numbers of threads; torch's number is the same afterwards.

    Args:
        candidates: numbers of threads; 1 is one of them.
    """
    before = torch.get_num_threads()
    products = _Products()
    try:
        for threads in candidates:  # starts the threads and compiles the kernels
            products.time(threads)
        for _ in range(ATTEMPTS):
            load = OtherLoad()
            rounds = [[products.time(n) for n in sorted(candidates)] for _ in range(ROUNDS)]
            trials = tuple(_best(timed) for timed in zip(*rounds, strict=True))
            if is_reliable := load.processors() <= MAX_OTHER_LOAD and are_plausible(trials):
                break
    finally:
        torch.set_num_threads(before)
    return ThreadTrials(trials, is_reliable)


def measure_lateness(threads: int, *, good_enough_ms: float) -> float | None:
    """How late a screen is beside a run with this many threads: the 99th percentile, in milliseconds.

    The screen is another process, which ticks while torch computes here. The best of a few tries counts,
    because any other program can delay it too.

    Args:
        threads: the number of threads.
        good_enough_ms: a lateness that needs no further try.

    Returns:
        The lateness, or None if no process could be started.
    """
    best: float | None = None
    for _ in range(ATTEMPTS):
        late = _try_lateness(threads)
        if late is not None and (best is None or late < best):
            best = late
        if best is None or best <= good_enough_ms:
            break
    return best


def _try_lateness(threads: int) -> float | None:
    before, products = torch.get_num_threads(), _Products()
    try:
        torch.set_num_threads(threads)
        products.time(threads)
        clock = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", SCREEN_CLOCK], stdout=subprocess.PIPE, text=True
        )
    except OSError:
        torch.set_num_threads(before)
        return None
    started = time.monotonic()
    try:
        while clock.poll() is None and time.monotonic() - started < MAX_CLOCK_S:
            products.decode()
            products.update()
    finally:
        torch.set_num_threads(before)
        clock.kill()
    output = clock.communicate()[0]
    return 1000 * float(json.loads(output)) if output else 1000 * MAX_CLOCK_S


def are_plausible(trials: Sequence[ThreadTrial]) -> bool:
    """Whether no number of threads is faster than that many times one thread."""
    one = trials[0]
    return all(
        getattr(one, name) <= MAX_OVERSHOOT * trial.threads * getattr(trial, name)
        for trial in trials[1:]
        for name in ("decode_ms", "update_ms")
    )


class OtherLoad:
    """Processor time that other programs take from this process, since the object was created."""

    def __init__(self) -> None:
        self._start = self._read()
        hidden = (os.cpu_count() or 1) - usable_processors()
        self._spare = hidden
        """Processors of the machine that this process may not use; others may."""

    def processors(self) -> float:
        """Mean number of processors that others kept busy, beyond those that this process may not use."""
        wall, idle, own = (now - then for now, then in zip(self._read(), self._start, strict=True))
        busy = (os.cpu_count() or 1) - idle / wall
        return max(0.0, busy - own / wall - self._spare)

    @staticmethod
    def _read() -> tuple[float, float, float]:
        """Wall time, idle time of all processors, and processor time of this process, in seconds."""
        times = psutil.cpu_times()
        return time.monotonic(), times.idle + getattr(times, "iowait", 0.0), time.process_time()


def _best(timed: Sequence[ThreadTrial]) -> ThreadTrial:
    """The least time of each kind."""
    decode, update = min(t.decode_ms for t in timed), min(t.update_ms for t in timed)
    return ThreadTrial(timed[0].threads, decode, update)


class _Products:
    """The products of a small model, with their weights."""

    def __init__(self) -> None:
        self._layers = [
            tuple(torch.full(shape, 0.01) for shape in
                  ((HIDDEN, HIDDEN), (INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)))
            for _ in range(LAYERS)
        ]  # fmt: skip
        self._keys = torch.full((DECODE_ROWS, HEADS, KEYS, HIDDEN // HEADS), 0.01)

    def time(self, threads: int) -> ThreadTrial:
        """Time both kinds of products once."""
        torch.set_num_threads(threads)
        started = time.perf_counter()
        for _ in range(DECODE_TOKENS):
            self.decode()
        decoded = time.perf_counter()
        self.update()
        ended = time.perf_counter()
        return ThreadTrial(
            threads, 1000 * (decoded - started) / DECODE_TOKENS, 1000 * (ended - decoded)
        )

    def decode(self) -> None:
        """The products of one token of eight rows."""
        hidden = torch.full((DECODE_ROWS, HIDDEN), 0.01)
        with torch.no_grad():
            for square, up, down in self._layers:
                query = linear(functional.rms_norm(hidden, (HIDDEN,)), square, None)
                attended = functional.scaled_dot_product_attention(
                    query.view(DECODE_ROWS, HEADS, 1, -1), self._keys, self._keys
                )
                hidden = hidden + linear(attended.reshape(DECODE_ROWS, HIDDEN), square, None)
                inner = linear(functional.rms_norm(hidden, (HIDDEN,)), up, None)
                hidden = hidden + linear(functional.silu(inner) * inner, down, None)

    def update(self) -> None:
        """The forward and backward pass of a short batch through one layer."""
        square, up, down = self._layers[0]
        x = torch.full((UPDATE_ROWS, HIDDEN), 0.01, requires_grad=True)
        with torch.enable_grad():
            inner = linear(functional.rms_norm(linear(x, square, None), (HIDDEN,)), up, None)
            loss = linear(functional.silu(inner) * inner, down, None).sum()
        torch.autograd.grad(loss, x)
