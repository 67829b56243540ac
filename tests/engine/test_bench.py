"""`ida-tui bench`: step times on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def test_bench_times_a_step_with_plain_trl_and_with_the_fast_engine(
    tmp_path: Path, ida_tui_here: Any
) -> None:
    report = tmp_path / "figures.json"
    done = ida_tui_here("bench", "--device=cpu", "--cells=S-G4-T64", f"--json={report}")
    assert done.code == 0, done.err
    (row,) = json.loads(report.read_text())
    assert 0 < row["ours_s"] < row["default_s"], "the fast engine is slower than plain TRL"
    assert f"{row['default_s']:.2f}s" in done.out
    assert set(row["phases"]["ours"]) >= {"generate", "update", "judge"}


def test_an_unknown_case_is_refused_with_a_list_of_the_known_ones(ida_tui_here: Any) -> None:
    done = ida_tui_here("bench", "--cells=S-G4-T65")
    assert done.code == 2
    assert 'unknown case "S-G4-T65"' in done.err
    assert "S-G4-T64" in done.err
