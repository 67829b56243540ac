"""`ida-tui bench`: step times on this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config.schema import DeviceName
from ida_tui.engine.bench import compare, process
from ida_tui.engine.bench.cases import TRAINERS, BenchCase


class TrainerHere(compare.TrainerProcess):
    """Trains with TRL in the test process, where torch is imported only once."""

    def __init__(self, trainer: str, device: DeviceName, *, as_it_comes: bool) -> None:
        self._trainer = trainer
        if trainer == "ours":
            super().__init__(trainer, device, as_it_comes=as_it_comes)

    def measure(self, case: BenchCase, steps: Sequence[int], folder: str | None) -> dict[str, Any]:
        if self._trainer == "ours":
            return super().measure(case, steps, folder)
        small = replace(case, generations=2, longest=8)
        return {**process.measure_case(self._trainer, small, steps, folder), "reason": ""}

    def close(self) -> None:
        if self._trainer == "ours":
            super().close()


def test_bench_times_a_step_with_plain_trl_and_with_the_fast_engine(
    tmp_path: Path, ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "TrainerProcess", TrainerHere)
    report = tmp_path / "figures.json"
    done = ida_tui_here("bench", "--device=cpu", "--cells=S-G4-T64", f"--json={report}")
    assert done.code == 0, done.err
    (row,) = json.loads(report.read_text())
    assert all(row[f"{trainer}_s"] > 0 for trainer in TRAINERS)
    assert f"{row['default_s']:.2f}s" in done.out
    assert set(row["phases"]["ours"]) >= {"generate", "update", "judge"}


def test_an_unknown_case_is_refused_with_a_list_of_the_known_ones(ida_tui_here: Any) -> None:
    done = ida_tui_here("bench", "--cells=S-G4-T65")
    assert done.code == 2
    assert 'unknown case "S-G4-T65"' in done.err
    assert "S-G4-T64" in done.err
