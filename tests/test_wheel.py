"""The wheel carries everything that a run needs: profiles, the embedded model, its tokenizer."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import synthetic_run
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout and unpacked into an empty folder."""
    built, site = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def command(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ida_tui", *arguments],
        cwd=installed,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_installed_wheel_lists_the_profiles_it_carries(installed: Path) -> None:
    listed = command(installed, "--list")

    assert listed.returncode == 0, listed.stderr
    for name in ("quickstart", "dev-mps", "gpt-4o-mini", "qwen3-4b-mps-fp16", "over-refusal"):
        assert name in listed.stdout
    shown = command(installed, "--show", "quickstart")
    assert "# ida_tui/shipped_profiles/experiments/quickstart.yaml:" in shown.stdout


def test_an_installed_wheel_carries_the_embedded_model_whole(installed: Path) -> None:
    checked = command(installed, "--check", "quickstart")

    assert checked.returncode == 0, checked.stderr
    assert "ship with ida-tui" in checked.stdout


def test_an_installed_wheel_writes_a_report(installed: Path, tmp_path: Path) -> None:
    synthetic_run.write(tmp_path / "run" / "events.jsonl", steps=1, rows=1)
    written = command(installed, "report", str(tmp_path / "run"))

    assert written.returncode == 0, written.stderr
    assert "</html>" in (tmp_path / "run" / "report.html").read_text()
