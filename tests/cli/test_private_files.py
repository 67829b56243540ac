"""What a run leaves behind: files that only their owner can read, and no key in any of them."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ida_tui.config.embedded import model_folder
from ida_tui.config.model_files import model_problem
from ida_tui.config.schema import ModelConfig
from ida_tui.engine.run.background import LaunchFailed, launch
from tests.support.judge_server import ScriptedJudge, Status

KEY = "sk-fake/key-1234567890"
PACKAGE = Path(__file__).parents[2] / "ida_tui"


def run_in_shell(
    umask: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `ida-tui` with this umask."""
    return subprocess.run(
        [
            "sh",
            "-c",
            f'umask {umask}; exec "$@"',
            "sh",
            sys.executable,
            "-m",
            "ida_tui",
            *arguments,
        ],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def test_whatever_the_umask_a_run_is_private_and_its_key_is_nowhere(tmp_path: Path) -> None:
    echo = Status(429, message=f"you sent Bearer {KEY} and 'MY_KEY={KEY}'", retry_after="0")
    with ScriptedJudge([echo, echo]) as server:
        result = run_in_shell(
            "000",
            *("--run", "quickstart", "training.max_steps=1", "evaluation.enabled=false"),
            *("report_to=[csv]", "judge.kind=openai", "judge.model=m", "judge.anchor_every=0"),
            *(f"judge.base_url={server.base_url}", "judge.api_key_env=MY_JUDGE"),
            MY_JUDGE=KEY,
        )
        assert result.returncode == 0, result.stderr + result.stdout
        assert f"Bearer {KEY}" in server.authorizations
    assert KEY not in result.stdout + result.stderr
    written = [
        path for root in ("work", "cache", "config") for path in (tmp_path / root).rglob("*")
    ]
    names = {path.name for path in written}
    assert {"events.jsonl", "config.yaml", "manifest.json", "judge.sqlite3", ".lock"} <= names
    assert "consent.json" in names
    for path in written:
        if not path.is_symlink():
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path


def test_no_process_searches_the_working_folder_for_modules() -> None:
    Path("yaml.py").write_text("open('PWNED', 'w').close()\nraise SystemExit(9)\n")
    Path("json.py").write_text("open('PWNED', 'w').close()\nraise SystemExit(9)\n")

    with pytest.raises(LaunchFailed) as caught:
        launch(["--run", "no-such-profile"], lambda pid: None)
    assert "there is no experiment profile" in caught.value.output
    assert run_in_shell("022", "--show", "quickstart").returncode == 0

    # `python -m ida_tui` itself would import this folder; the processes that ida-tui starts do not.
    Path("ida_tui").mkdir()
    Path("ida_tui/__init__.py").write_text("open('PWNED', 'w').close()\nraise SystemExit(9)\n")
    with pytest.raises(LaunchFailed) as caught:
        launch(["--check", "quickstart", "judge=no-such-profile"], lambda pid: None)
    assert "there is no judge profile" in caught.value.output
    shutil.copytree(model_folder(), "model")
    Path("model/chat_template.jinja").write_text("{{ 'a' * 40000000 }}")
    problem = model_problem(ModelConfig(path="model"))
    assert problem is not None
    assert "expands one short message" in problem[0]

    assert not Path("PWNED").exists()
    for file in PACKAGE.rglob("*.py"):
        for started in re.finditer(r"sys\.executable,\s*([^],\s]+)", file.read_text()):
            assert started.group(1) in ('"-P"', '"-I"'), file


def test_processes_of_libraries_do_not_search_the_working_folder_either() -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import yaml'])"
    Path("yaml.py").write_text("open('PWNED', 'w').close()\n")
    start = f"from ida_tui.cli import main; main.main = lambda: exec({child!r}); main.entry()"

    subprocess.run([sys.executable, "-P", "-c", start], check=False, capture_output=True)

    assert not Path("PWNED").exists()
