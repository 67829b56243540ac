"""Printed header of `ida-tui reward check`."""

from __future__ import annotations

from collections.abc import Iterator

from ida_tui.config.schema import Config
from ida_tui.config.scoring.reward_files import named_functions


def reward_header(config: Config) -> Iterator[str]:
    """The reward, and the functions whose code is about to run."""
    rubric = config.rubric
    name = f", rubric {rubric.name}" if rubric.name else ""
    yield f"{rubric.reward_name} = {rubric.formula_text}{name}"
    for label, axes in named_functions(rubric):
        yield f"{', '.join(axes)} computed by {label}"
