"""Time of reward functions: limits, calls that do not return, event loops and stops."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ida_tui.rewards.functions import RewardFunctions
from ida_tui.util.plugin_threads import PluginStopped
from tests.rewards.reward_functions import compute, only_failure, rows_of, rubric_of, scores, write
from tests.support.hanging import released

HANGING = """
    from tests.support.hanging import released
    def f(completion):
        if completion.startswith("hang"):
            released.wait()
        return len(completion)
"""


@pytest.fixture(autouse=True, scope="module")
def _release() -> Iterator[None]:
    """Ends the calls that hang in these tests."""
    yield
    released.set()


def test_a_call_that_does_not_return_fails_and_the_others_are_scored(tmp_path: Path) -> None:
    computed = compute(tmp_path, HANGING, rows_of("hang", "ab", "abc"), timeout_s=0.2)
    assert scores(computed) == [None, 2.0, 3.0]
    assert computed[0].failure == "f: it took longer than 0.2 s"


def test_a_function_that_keeps_hanging_is_not_called_again(tmp_path: Path) -> None:
    functions = RewardFunctions(rubric_of(write(tmp_path, HANGING), "f", timeout_s=0.05))
    first = functions.compute(rows_of(*["hang"] * 5, "ab"), group_size=6)
    assert [each.failure for each in first] == [
        *["f: it took longer than 0.05 s"] * 4,
        *["f: it does not return"] * 2,
    ]
    assert only_failure(functions.compute(rows_of("ab"), group_size=1)) == "f: it does not return"
    functions.reload()
    assert scores(functions.compute(rows_of("ab"), group_size=1)) == [2.0]


def test_late_calls_that_return_in_the_end_do_not_count_as_hanging(tmp_path: Path) -> None:
    code = """
        import threading
        gate, left = threading.Event(), threading.Semaphore(0)
        def f(completion):
            if completion == "late":
                gate.wait()
            if completion == "open":
                gate.set()
            return 1
    """
    functions = RewardFunctions(rubric_of(write(tmp_path, code), "f", timeout_s=0.1))
    function = functions.functions[0]
    computed = functions.compute(rows_of("late", "late", "open"), group_size=3)
    assert scores(computed) == [None, None, 1.0]
    while function.hung:  # the threads end by themselves
        threading.Event().wait(0.01)


def test_an_async_call_that_waits_too_long_fails_alone(tmp_path: Path) -> None:
    code = """
        import asyncio
        async def f(completion):
            while completion == "stubborn":
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    pass
            if completion == "late":
                await asyncio.sleep(60)
            return 1
    """
    functions = RewardFunctions(rubric_of(write(tmp_path, code), "f", timeout_s=0.1))
    for _ in range(2):
        computed = functions.compute(rows_of("late", "stubborn", "a"), group_size=3)
        assert scores(computed) == [None, None, 1.0]
        assert computed[1].failure == "f: it took longer than 0.1 s"
    assert not functions.functions[0].hung


def test_an_async_function_that_blocks_gets_another_event_loop(tmp_path: Path) -> None:
    code = HANGING.replace("def f", "async def f")
    functions = RewardFunctions(rubric_of(write(tmp_path, code), "f", timeout_s=0.1))
    late = "f: it took longer than 0.1 s"
    assert only_failure(functions.compute(rows_of("hang", "hang"), group_size=2)) == late
    assert scores(functions.compute(rows_of("ab"), group_size=1)) == [2.0]


def test_a_stop_ends_the_wait_for_a_function(tmp_path: Path) -> None:
    functions = RewardFunctions(rubric_of(write(tmp_path, HANGING), "f"))
    with pytest.raises(PluginStopped):
        functions.compute(rows_of("hang"), group_size=1, should_stop=lambda: True)


def test_a_stop_ends_the_wait_for_an_import(tmp_path: Path) -> None:
    code = "from tests.support.hanging import released\nreleased.wait()\ndef f(completion): ..."
    with pytest.raises(PluginStopped):
        RewardFunctions(rubric_of(write(tmp_path, code), "f"), should_stop=lambda: True)
