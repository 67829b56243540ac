"""Code of reward functions as files, rubrics and rows, and what the functions return."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ida_tui.config.scoring.rubric import RubricAxis, RubricConfig
from ida_tui.rewards.functions import ComputedScores, RewardFunctions, RewardRow


def write(folder: Path, code: str, name: str = "rewards.py") -> Path:
    """A file with this code in a folder."""
    file = folder / name
    file.write_text(textwrap.dedent(code))
    return file


def rubric_of(file: Path, *names: str, timeout_s: float = 30.0, **axis: Any) -> RubricConfig:
    """A rubric whose axes are functions of a file; `axis` are further settings of each of them."""
    axes = {name: RubricAxis(function=f"{file}:{name}", **axis) for name in names}
    return RubricConfig(axes=axes, function_timeout_s=timeout_s)


def rows_of(*completions: str, **columns: Sequence[Any]) -> list[RewardRow]:
    """One row for each completion, all of one prompt; a column has a value for each of them."""
    return [
        RewardRow(
            prompt_id="p",
            prompt="What is 2 + 2?",
            messages=({"role": "user", "content": "What is 2 + 2?"},),
            completion=completion,
            completion_ids=tuple(range(len(completion))),
            columns={name: values[n] for name, values in columns.items()},
        )
        for n, completion in enumerate(completions)
    ]


def compute(
    folder: Path,
    code: str,
    rows: Sequence[RewardRow],
    *,
    name: str = "f",
    group_size: int = 2,
    **settings: Any,
) -> list[ComputedScores]:
    """The scores that the function `name` of this code gives; `settings` are those of `rubric_of`."""
    functions = RewardFunctions(rubric_of(write(folder, code), name, **settings))
    return functions.compute(rows, group_size=group_size)


def scores(computed: Sequence[ComputedScores], axis: str = "f") -> list[float | None]:
    """The score of every completion on one axis; None for a failure."""
    return [each.scores[axis] for each in computed]


def only_failure(computed: Sequence[ComputedScores]) -> str:
    """The failure that every completion has."""
    assert all(list(each.scores.values()) == [None] for each in computed)
    [text] = {each.failure for each in computed}
    assert text is not None
    return text
