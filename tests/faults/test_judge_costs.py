"""What a run reports to have cost, after pauses, kills and failed calls."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.prepared import prepared_python

REPOSITORY = Path(__file__).parents[2]


def test_a_run_reports_what_the_server_counted_after_pauses_kills_and_failed_calls() -> None:
    result = subprocess.run(
        [*prepared_python(), "-m", "tests.faults.judge_costs"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    figures = json.loads(result.stdout)
    assert figures["pauses"] >= 5
    assert figures["kills"] == 2
    assert figures["estimated"] == figures["held"] > 0  # the calls in flight at the first kill
    for reported in ("ended", "runs", "report"):
        assert figures[reported] == pytest.approx(figures["charged"], abs=1e-6)
    assert figures["over_budget"] <= figures["call"] + 1e-9
