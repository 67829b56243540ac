"""Commands on hostile folders: no secret leaves, no code runs, nothing hangs, nothing is written outside."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.prepared import prepared_python

REPOSITORY = Path(__file__).parents[2]


def test_commands_on_hostile_folders_do_nothing_that_they_must_not() -> None:
    # A process of its own: the commands run in forked children, which needs a parent without threads.
    result = subprocess.run(
        [
            *prepared_python(),
            "-m",
            "tests.faults.hostile",
            "--count",
            "100",
            "--model-share",
            "0.04",
        ],
        cwd=REPOSITORY,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    summary = result.stdout.splitlines()[-1]
    assert summary.startswith("100 cases")
    assert "0 secret, 0 code, 0 hang, 0 traceback, 0 blame, 0 outside" in summary
