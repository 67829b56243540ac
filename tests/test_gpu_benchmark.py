"""The benchmark for GPUs, on a tiny model on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu


def test_every_trainer_is_measured_in_every_number_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure_here(way: str, number_format: str, device: str, quick: bool) -> dict[str, Any]:
        assert quick
        return gpu.measure(way, number_format, device, 1, tmp_path / way)

    monkeypatch.setattr(gpu, "run_worker", measure_here)
    goals, details = gpu.compare("cpu", quick=True)
    (row,) = details["formats"]
    assert row["format"] == "float32"
    assert set(row["trainers"]) == {"default", "tuned", "ours"}
    for figures in row["trainers"].values():
        assert min(figures["step_s"], figures["tokens_per_s"], figures["peak_mb"]) > 0
    assert [goal.name for goal in goals] == [
        "float32: ours / default",
        "float32: ours / tuned",
        "float32: peak memory over default",
    ]
    assert "cpu" in details["device"]
