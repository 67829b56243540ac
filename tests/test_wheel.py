"""The wheel: it contains everything that a run needs (profiles, embedded model, tokenizer).

The wheel is built from this checkout, installed into an empty folder, and used from another directory. Its
dependencies come from this environment, because a separate environment needs 5 GB.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.support import synthetic_run
from tests.support.patience import PATIENCE_S
from tests.support.terminal import terminal


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the wheel, built by hatchling and installed by uv."""
    build, site = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(build)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    (wheel,) = build.glob("*.whl")
    uv = shutil.which("uv")
    assert uv is not None, "uv is needed to install the wheel"
    install = [uv, "pip", "install", "--quiet", "--offline", "--no-deps"]
    target = ["--python", sys.executable, "--target", str(site), str(wheel)]
    result = subprocess.run(
        [*install, *target], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert result.returncode == 0, result.stderr
    return site


def run_installed(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed `ida-tui` in the test's working directory."""
    return subprocess.run(
        [sys.executable, str(installed / "bin" / "ida-tui"), *arguments],
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_an_installed_wheel_lists_its_profiles(installed: Path) -> None:
    listed = run_installed(installed, "--list")

    assert listed.returncode == 0, listed.stderr
    for name in ("quickstart", "dev-mps", "gpt-4o-mini", "qwen3-4b-mps-fp16", "over-refusal"):
        assert name in listed.stdout
    shown = run_installed(installed, "--show", "quickstart")
    assert "ida_tui/shipped_profiles/experiments/quickstart.yaml:" in shown.stdout
    for shell in ("bash", "zsh", "fish"):
        assert "_ARGCOMPLETE" in run_installed(installed, "completions", shell).stdout
    assert (installed / "ida_tui/cli/completion/config_keys.json").is_file()


def test_an_installed_wheel_trains_its_embedded_model(installed: Path) -> None:
    short = ("training.max_steps=2", "evaluation.enabled=false")
    result = run_installed(installed, "--run", "quickstart", *short)

    assert result.returncode == 0, result.stderr
    assert "Training complete" in result.stdout
    (weights,) = Path("outputs/quickstart").glob("2*/adapter/adapter_model.safetensors")
    assert weights.stat().st_size > 100_000
    manifest = json.loads((weights.parents[1] / "manifest.json").read_text())
    assert manifest["command"][0] == str(installed / "bin" / "ida-tui")
    code = (
        "import ida_tui; run = ida_tui.load_run('quickstart'); print(ida_tui.__file__, run.status)"
    )
    script = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert script.stdout.split() == [str(installed / "ida_tui" / "__init__.py"), "done"]


def test_an_installed_wheel_writes_a_report(installed: Path, tmp_path: Path) -> None:
    synthetic_run.write(tmp_path / "run" / "events.jsonl", steps=1, rows=1)
    written = run_installed(installed, "report", str(tmp_path / "run"))

    assert written.returncode == 0, written.stderr
    assert "</html>" in (tmp_path / "run" / "report.html").read_text()


def test_an_installed_wheel_opens_the_app_with_its_profiles(installed: Path) -> None:
    argv = (sys.executable, str(installed / "bin" / "ida-tui"))
    with terminal(*argv, PYTHONPATH=str(installed)) as app:
        for name in ("quickstart", "dev-mps", "oblit-1-mps-lowmem", "included with ida-tui"):
            app.wait_for(name)
        app.send("q")
        assert app.wait_for_exit() == 0
        assert app.is_restored


def test_the_viewer_has_the_same_files_version_and_bounds_without_the_engines_libraries() -> None:
    viewer, package = (
        tomllib.loads((REPOSITORY / folder / "pyproject.toml").read_text())["project"]
        for folder in ("viewer", ".")
    )
    assert viewer["version"] == package["version"]
    assert viewer["scripts"] == package["scripts"]
    assert set(viewer["dependencies"]) < set(package["dependencies"])
    assert not any(re.match("torch|trl|transformers|peft", name) for name in viewer["dependencies"])


@pytest.mark.parametrize("arguments", [("--run", "quickstart"), ("doctor",)], ids=" ".join)
def test_a_command_without_its_library_names_the_installation_that_has_it(
    arguments: tuple[str, ...],
) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from ida_tui.cli.main import main; raise SystemExit(main(sys.argv[1:]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert result.returncode == 1
    assert result.stderr.startswith("error: torch")
    assert "ida-tui-viewer only shows runs; install ida-tui" in result.stderr
    assert "Traceback" not in result.stderr
