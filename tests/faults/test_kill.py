"""A run that is killed at any moment goes on, and ends as one that was never killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_runs_that_are_killed_at_random_moments_end_with_the_same_bytes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.kill", "--moments", "6"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "ended with the same weights, steps and completions" in done.stdout
