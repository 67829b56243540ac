"""Shared parts of the benchmarks: goals, the flags `--quick` and `--json FILE`, and the exit status."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Goal:
    """A measured figure and the largest value that meets the goal."""

    name: str
    value: float
    most: float
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure is within its goal."""
        return self.value <= self.most

    def __str__(self) -> str:
        mark = "✓" if self.met else "✗"
        return f"{mark} {self.name} {self.value:.3g}{self.unit} (≤ {self.most:g}{self.unit})"


BenchmarkPart = Callable[[], tuple[list[Goal], dict[str, Any]]]
"""Measures and prints one thing; returns its goals and the figures behind them."""


def build_parser(doc: str) -> argparse.ArgumentParser:
    """The argument parser of a benchmark.

    Args:
        doc: the docstring of the benchmark's module, shown by `--help`.
    """
    flags = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--quick", action="store_true", help="run a subset, under four minutes")
    flags.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    return flags


def run_benchmark(name: str, parts: Sequence[BenchmarkPart], report: Path | None) -> int:
    """Run every part in a temporary folder and print its goals; returns the exit status."""
    report = report.resolve() if report else None
    goals: list[Goal] = []
    details: dict[str, Any] = {}
    previous = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="ida-tui-bench-") as folder:
        os.chdir(folder)
        try:
            for part in parts:
                part_goals, figures = part()
                goals += part_goals
                details |= figures
                if part_goals:
                    print(*part_goals, sep="\n", flush=True)
        finally:
            os.chdir(previous)
    if report is not None:
        summary = {"goals": [asdict(g) | {"met": g.met} for g in goals], "details": details}
        report.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(f"{name}: " + " · ".join(map(str, goals)))
    return 0 if all(goal.met for goal in goals) else 1
