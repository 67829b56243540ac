"""Files of reward functions: imports that fail, shared modules and reloads."""

from __future__ import annotations

from pathlib import Path

import pytest

from ida_tui.errors import IdaError
from ida_tui.rewards.functions import RewardFunctions
from tests.rewards.reward_functions import rows_of, rubric_of, scores, write


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('no')", "ValueError: no"),
        ("import sys\nsys.exit(1)", "SystemExit: 1"),
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_clear_error(
    tmp_path: Path, code: str, reason: str
) -> None:
    with pytest.raises(IdaError, match="cannot be loaded") as raised:
        RewardFunctions(rubric_of(write(tmp_path, code), "f"))
    assert reason in raised.value.title
    assert "rewards.py" in raised.value.hint


def test_functions_of_one_file_share_its_module(tmp_path: Path) -> None:
    code = """
        seen = []
        def f(completion): seen.append(1); return len(seen)
        def g(completion): return len(seen)
    """
    functions = RewardFunctions(rubric_of(write(tmp_path, code), "f", "g"))
    functions.compute(rows_of("a"), group_size=1)
    assert functions.compute(rows_of("a"), group_size=1)[0].scores["g"] in (1.0, 2.0)


def test_a_reload_sees_changes_of_the_file_and_of_the_modules_beside_it(tmp_path: Path) -> None:
    write(tmp_path, "LIMIT = 1", "limits_of_this_test.py")
    code = "from limits_of_this_test import LIMIT\ndef f(completion): return LIMIT"
    functions = RewardFunctions(rubric_of(write(tmp_path, code), "f"))
    assert scores(functions.compute(rows_of("a"), group_size=1)) == [1.0]
    write(tmp_path, "LIMIT = 2.0", "limits_of_this_test.py")
    functions.reload()
    assert scores(functions.compute(rows_of("a"), group_size=1)) == [2.0]
    write(tmp_path, code.replace("LIMIT\n", "LIMIT;LIMIT = 3\n"))
    functions.reload()
    assert scores(functions.compute(rows_of("a"), group_size=1)) == [3.0]
    assert not (tmp_path / "__pycache__" / "rewards.cpython-311.pyc").exists()


def test_a_failed_reload_keeps_the_functions(tmp_path: Path) -> None:
    functions = RewardFunctions(rubric_of(write(tmp_path, "def f(completion): return 1"), "f"))
    write(tmp_path, "def f(completion) return 1")
    with pytest.raises(IdaError):
        functions.reload()
    assert scores(functions.compute(rows_of("a"), group_size=1)) == [1.0]
