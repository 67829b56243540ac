"""Every cell by every way, taking turns, each way in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ida_tui.config.schema import DeviceName
from ida_tui.engine.bench.cases import WAYS, Cell

ENVIRONMENT = {"MALLOC_ARENA_MAX": "2", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}


def compare(cells: list[Cell], repeats: int, device: DeviceName = "cpu") -> list[dict[str, Any]]:
    """Measure and print every cell by every way, taking turns.

    Args:
        cells: what is measured.
        repeats: how often; the best of each way counts.
        device: where.

    Returns:
        For each cell its figures: seconds, phases, peak memory (None where it cannot be read), exposed judge.
    """
    ways = {way: Way(way, device) for way in WAYS}
    rows = []
    print(f"{'cell':<20} {'default':>9} {'tuned':>8} {'ours':>8}   {'default/ours':>12} {'tuned/ours':>10}"
          f"   peak MB default → ours   exposed judge")  # fmt: skip
    try:
        for cell in cells:
            found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
            for _ in range(repeats):
                for way, process in ways.items():
                    found[way].append(process.run(cell))
            row = _row(cell, found)
            rows.append(row)
            print(_line(row), flush=True)
    finally:
        for process in ways.values():
            process.close()
    return rows


def _row(cell: Cell, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    best = {way: min(runs, key=lambda run: run["step_s"]) for way, runs in found.items()}
    return {
        "cell": asdict(cell),
        "name": cell.name,
        **{f"{way}_s": best[way]["step_s"] for way in WAYS},
        "phases": {way: best[way]["phases"] for way in WAYS},
        "peak_mb": {way: _least([run["peak_mb"] for run in found[way]]) for way in WAYS},
        "exposed_share": best["ours"]["exposed_s"] / best["ours"]["judge_s"],
        "runs": found,
    }


def _least(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return min(known) if known else None


def _line(row: dict[str, Any]) -> str:
    default, tuned, ours = row["default_s"], row["tuned_s"], row["ours_s"]
    peak = " → ".join(
        "–" if row["peak_mb"][way] is None else f"{row['peak_mb'][way]:,.0f}"
        for way in ("default", "ours")
    )
    phases = ", ".join(
        f"{phase} {row['phases']['default'].get(phase, 0):.2f} → {seconds:.2f}"
        for phase, seconds in row["phases"]["ours"].items()
        if seconds >= 0.01
    )
    return (
        f"{row['name']:<20} {default:>8.2f}s {tuned:>7.2f}s {ours:>7.2f}s   {default / ours:>11.2f}×"
        f" {tuned / ours:>9.2f}×   {peak:>17}          {row['exposed_share']:.0%}\n{'':<20} {phases}"
    )


class Way:
    """A process that trains one way, a cell whenever it is told to."""

    def __init__(self, way: str, device: DeviceName) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ida_tui.engine.bench.trainers", way, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(Path(__file__).parents[3])},
        )

    def run(self, cell: Cell) -> dict[str, Any]:
        """The figures of one cell."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asdict(cell)), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise RuntimeError("the process ended")

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
