"""Step benchmark runner: measures each trainer in a separate process, one case after another."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ida_tui.config.schema import DeviceName
from ida_tui.engine.bench.cases import TRAINERS, BenchCase
from ida_tui.util.secrets import environment_without_secrets

PROCESS_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "2",
    "HF_HUB_OFFLINE": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}


def compare_trainers(
    cases: list[BenchCase], repeats: int, device: DeviceName = "cpu"
) -> list[dict[str, Any]]:
    """Measure and print every case with every trainer, in turns.

    Args:
        cases: the cases to measure.
        repeats: measurements of each case; the fastest of each trainer counts.
        device: the device to train on.

    Returns:
        One row of figures per case: seconds, phases, peak memory in MB (None if it cannot be measured), and
        the share of the judge's time that the trainer waits for.
    """
    processes = {trainer: TrainerProcess(trainer, device) for trainer in TRAINERS}
    rows = []
    print(f"{'cell':<20} {'default':>9} {'tuned':>8} {'ours':>8}   {'default/ours':>12} {'tuned/ours':>10}"
          f"   peak MB default → ours   exposed judge")  # fmt: skip
    try:
        for case in cases:
            results: dict[str, list[dict[str, Any]]] = {trainer: [] for trainer in TRAINERS}
            for _ in range(repeats):
                for trainer, process in processes.items():
                    results[trainer].append(process.measure(case))
            row = _result_row(case, results)
            rows.append(row)
            print(_format_row(row), flush=True)
    finally:
        for process in processes.values():
            process.close()
    return rows


def _result_row(case: BenchCase, results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    best = {trainer: min(runs, key=lambda run: run["step_s"]) for trainer, runs in results.items()}
    return {
        "cell": asdict(case),
        "name": case.name,
        **{f"{trainer}_s": best[trainer]["step_s"] for trainer in TRAINERS},
        "phases": {trainer: best[trainer]["phases"] for trainer in TRAINERS},
        "peak_mb": {
            trainer: _minimum([run["peak_mb"] for run in results[trainer]]) for trainer in TRAINERS
        },
        "exposed_share": best["ours"]["exposed_s"] / best["ours"]["judge_s"],
        "runs": results,
    }


def _minimum(values: list[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return min(measured) if measured else None


def _format_row(row: dict[str, Any]) -> str:
    default, tuned, ours = row["default_s"], row["tuned_s"], row["ours_s"]
    peak = " → ".join(
        "–" if row["peak_mb"][trainer] is None else f"{row['peak_mb'][trainer]:,.0f}"
        for trainer in ("default", "ours")
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


class TrainerProcess:
    """A process that trains with one trainer, one case per call."""

    def __init__(self, trainer: str, device: DeviceName) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ida_tui.engine.bench.trainers", trainer, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment_without_secrets()
            | PROCESS_ENVIRONMENT
            | {"PYTHONPATH": str(Path(__file__).parents[3])},
        )

    def measure(self, case: BenchCase) -> dict[str, Any]:
        """Train one case; returns its figures."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asdict(case)), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("{"):
                figures: dict[str, Any] = json.loads(line)
                return figures
        raise RuntimeError("the benchmark process ended early")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
