"""What every benchmark has in common: figures against goals, `--quick`, `--json FILE`, an exit status."""

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
    """One figure and the most it may be."""

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


Part = Callable[[], tuple[list[Goal], dict[str, Any]]]
"""Measures one thing and prints it; returns the goals and the figures behind them."""


def parser(doc: str) -> argparse.ArgumentParser:
    """The flags of a benchmark whose module has this docstring."""
    flags = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--quick", action="store_true", help="under four minutes")
    flags.add_argument("--json", metavar="FILE", type=Path, help="also write the figures here")
    return flags


def measure(name: str, parts: Sequence[Part], report: Path | None) -> int:
    """Measure every part in a folder of its own, print, and return the exit status."""
    report = report.resolve() if report else None
    goals: list[Goal] = []
    details: dict[str, Any] = {}
    home = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="ida-tui-bench-") as folder:
        os.chdir(folder)
        try:
            for part in parts:
                found, detail = part()
                goals += found
                details |= detail
                if found:
                    print(*found, sep="\n", flush=True)
        finally:
            os.chdir(home)
    if report is not None:
        figures = {"goals": [asdict(g) | {"met": g.met} for g in goals], "details": details}
        report.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(f"{name}: " + " · ".join(map(str, goals)))
    return 0 if all(goal.met for goal in goals) else 1
