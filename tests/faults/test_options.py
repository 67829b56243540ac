"""Random combinations of options, each trained for two steps or refused before anything is loaded."""

from __future__ import annotations

import subprocess
from pathlib import Path
from random import Random

from tests.faults.options import draw, draw_value, options
from tests.support.prepared import prepared_python

REPOSITORY = Path(__file__).parents[2]


def test_random_combinations_of_options_train_or_are_refused_before_anything_is_loaded() -> None:
    result = subprocess.run(
        [*prepared_python(), "-m", "tests.faults.options", "--count", "30", "--seed", "0"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert "30 combinations" in result.stdout
    assert " 0 failed" in result.stdout


def test_every_option_is_drawn_without_being_listed() -> None:
    known = {option.key for option in options()}
    drawn = {
        override.partition("=")[0]
        for number in range(600)
        for override in draw(Random(f"0:{number}"))
    }
    assert known <= drawn
    for option in options():
        draw_value(Random(0), option)
