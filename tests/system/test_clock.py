"""`RunClock`: it stands still during pauses and while the process is suspended."""

from __future__ import annotations

import pytest

from ida_tui.system.clock import RunClock


class Clocks:
    """A monotonic clock and a CPU clock, set by the test."""

    def __init__(self) -> None:
        self.now, self.cpu = 1000.0, 0.0

    def advance(self, seconds: float, *, busy: bool = False) -> None:
        self.now += seconds
        self.cpu += seconds if busy else 0.0


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def clock(clocks: Clocks) -> RunClock:
    return RunClock(lambda: clocks.now, lambda: clocks.cpu)


def test_the_clock_stands_still_during_nested_pauses(clock: RunClock, clocks: Clocks) -> None:
    clocks.advance(10)
    with clock.paused():
        clocks.advance(100)
        assert clock() == 10
        with clock.paused():
            clocks.advance(100)
        clocks.advance(100)
        assert clock() == 10
    clocks.advance(5)

    assert (clock(), clock.excluded_s) == (15, 300)


def test_a_restarted_clock_counts_from_zero(clock: RunClock, clocks: Clocks) -> None:
    clocks.advance(10)
    with clock.paused():
        clocks.advance(10)
    clock.restart()
    clocks.advance(3)

    assert (clock(), clock.excluded_s) == (3, 0)


def test_a_suspended_process_is_excluded_whoever_asks_first(
    clock: RunClock, clocks: Clocks
) -> None:
    clock.tick()
    clocks.advance(60)

    assert clock() == 0
    assert clock.tick() == 60
    assert clock.tick() == 0
    assert clock.excluded_s == 60


def test_a_process_that_computes_without_ticks_is_not_suspended(
    clock: RunClock, clocks: Clocks
) -> None:
    clock.tick()
    clocks.advance(60, busy=True)

    assert (clock.tick(), clock()) == (0, 60)


def test_a_suspension_during_a_pause_counts_once(clock: RunClock, clocks: Clocks) -> None:
    clock.tick()
    with clock.paused():
        clocks.advance(60)
        assert clock.tick() == 0
        clocks.advance(1)

    assert (clock(), clock.excluded_s) == (0, 61)


def test_without_a_watch_a_long_wait_is_work(clock: RunClock, clocks: Clocks) -> None:
    with clock.watch(lambda seconds: None):
        pass
    clocks.advance(60)

    assert clock() == 60
