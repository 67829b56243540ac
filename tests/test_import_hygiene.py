"""Imports of commands that do not train: they import no machine-learning library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import synthetic_run
from tests.support.patience import PATIENCE_S

HEAVY = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "openai",
    "httpx2",
    "textual",
    "optuna",
)

PROBE = """
import sys
from ida_tui.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as exit_request:
    code = exit_request.code
heavy = sorted(set({heavy!r}) & set(sys.modules))
print(heavy, file=sys.stderr)
raise SystemExit(code)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("--list",),
        ("--show", "dev-mps"),
        ("--check", "dev-mps", "model=qwen3-4b-mps-fp16"),
        ("--check", "quickstart"),
        ("sweep", "quickstart", "seed=0,1", "--check"),
        ("runs",),
        ("report", "RUN"),
        ("compare", "RUN", "RUN-2"),
        ("attach", "RUN", "--json"),
    ],
    ids=" ".join,
)
def test_a_command_that_does_not_train_imports_no_heavy_library(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for folder in (run, tmp_path / "run-2"):
        synthetic_run.write(folder / "events.jsonl", steps=1, rows=1)
    arguments = tuple(word.replace("RUN", str(run)) for word in arguments)
    result = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=HEAVY), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[-1] == "[]"
    assert result.stdout.strip()
