"""Runs that are killed at random moments, resumed, and compared with an uninterrupted run."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.prepared import prepared_python

REPOSITORY = Path(__file__).parents[2]


def test_killed_and_resumed_runs_end_with_the_same_bytes_as_an_uninterrupted_run() -> None:
    result = subprocess.run(
        [*prepared_python(), "-m", "tests.faults.kill", "--moments", "6"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert "ended with the same weights, steps and completions" in result.stdout
