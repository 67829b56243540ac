"""Commands on a stranger's run directory: no key leaves, no code runs, and one question on a terminal."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from ida_tui.config import consent
from ida_tui.config.embedded import model_folder
from ida_tui.sweep import preflight
from tests.support.judge_server import ScriptedJudge

KEY = "GITHUB_TOKEN"
VALUE = "a-secret-value-1"
RUN = "outputs/quickstart/latest"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedJudge]:
    monkeypatch.setenv(KEY, VALUE)
    with ScriptedJudge() as judge:
        yield judge


def rewrite(run: Path, **sections: dict[str, Any]) -> None:
    """Change a run's own config.yaml, as a stranger would before publishing the run."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    for name, values in sections.items():
        config[name] |= values
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def send_key_to(run: Path, server: ScriptedJudge) -> tuple[str, str]:
    """Have the run ask for the key; returns the words that agree."""
    judge = {"kind": "openai", "model": "m", "base_url": server.base_url, "api_key_env": KEY}
    rewrite(run, judge=judge)
    return f"judge.base_url={server.base_url}", f"judge.api_key_env={KEY}"


def reopen(run: Path) -> None:
    """Remove the run's last event, so that it can be resumed."""
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    (run / "events.jsonl").write_text("".join(line for line in lines if "RunEnded" not in line))


@pytest.mark.parametrize(
    "command",
    [
        ("resume", RUN),
        ("evaluate", RUN),
        ("replay-judge", RUN, "budget=null"),
        ("chat", RUN, "--lines", "--judge"),
        ("--run", f"{RUN}/config.yaml"),
        ("sweep", f"{RUN}/config.yaml", "seed=0,1"),
        ("judge", "check", "judge.yaml"),
    ],
)
def test_no_command_sends_a_key_that_only_a_stranger_names(
    own_run: Path, ida_tui_here: Any, server: ScriptedJudge, command: tuple[str, ...]
) -> None:
    words = send_key_to(own_run, server)
    reopen(own_run)
    Path("judge.yaml").write_text(
        f"kind: openai\nmodel: m\nbase_url: {server.base_url}\napi_key_env: {KEY}\n"
    )

    result = ida_tui_here(*command)

    assert result.code == 2, result.err
    assert f"sends the environment variable {KEY} to http://127.0.0.1" in result.err
    assert " ".join(words) in result.err
    assert VALUE not in result.out + result.err
    assert server.authorizations == []


def test_the_typed_words_agree(own_run: Path, ida_tui_here: Any, server: ScriptedJudge) -> None:
    words = send_key_to(own_run, server)

    result = ida_tui_here("replay-judge", RUN, "budget=null", "--sample", "2", *words)

    assert result.code == 0, result.err
    assert set(server.authorizations) == {f"Bearer {VALUE}"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("answer", ["y", "n", ""])
def test_a_terminal_is_asked_once_and_remembers_only_yes(
    own_run: Path,
    ida_tui_here: Any,
    server: ScriptedJudge,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
) -> None:
    send_key_to(own_run, server)
    command = ("replay-judge", RUN, "budget=null", "--sample", "2")
    monkeypatch.setattr(sys, "stdin", Terminal(f"{answer}\n"))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    result = ida_tui_here(*command)

    assert f"It sends the environment variable {KEY} to http://127.0.0.1" in result.err
    agreed = answer == "y"
    assert result.code == (0 if agreed else 2), result.err
    assert bool(server.authorizations) == agreed
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert ida_tui_here(*command).code == (0 if agreed else 2)


@pytest.mark.parametrize(
    "command",
    [
        ("resume", RUN),
        ("evaluate", RUN),
        ("export", RUN, "--merged"),
        ("chat", RUN, "--lines"),
        ("--run", f"{RUN}/config.yaml"),
    ],
)
def test_no_command_runs_the_code_of_a_strangers_model(
    own_run: Path, ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    theirs = own_run / "base"
    theirs.mkdir()
    for file in model_folder().iterdir():
        (theirs / file.name).write_bytes(file.read_bytes())
    settings = json.loads((theirs / "config.json").read_text())
    settings |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    (theirs / "config.json").write_text(json.dumps(settings))
    (theirs / "evil.py").write_text("open('PWNED', 'w').close()\n")
    rewrite(own_run, model={"path": str(theirs), "trust_remote_code": True})
    reopen(own_run)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))

    result = ida_tui_here(*command)

    assert result.code == 2, result.err
    assert f"runs the Python code of the model in {theirs.resolve()}" in result.err
    assert "model.trust_remote_code=true" in result.err
    assert not Path("PWNED").exists()


def test_a_sweep_of_a_stranger_asks_before_its_processes_start(
    ida_tui_here: Any, server: ScriptedJudge
) -> None:
    pytest.importorskip("optuna")
    url = f"judge.base_url={server.base_url}"
    words = (url, f"judge.api_key_env={KEY}")
    plan = preflight.plan_sweep(
        "quickstart",
        ["judge.kind=openai", "judge.model=m", *words, "seed=0,1", "output_dir=../elsewhere"],
    )
    sweep = preflight.create_sweep(plan, jobs=1, budget=None, started_at=datetime.now())
    assert consent.read_consents()
    consent.consent_file().unlink()

    result = ida_tui_here("sweep", "--resume", str(sweep.path))

    assert result.code == 2
    assert f"sends the environment variable {KEY}" in result.err
    assert not list(sweep.path.glob("logs/*.log"))
    preflight.require_consent_to(sweep, words)
    preflight.require_consent_to(sweep, [])
    assert {item.use for item in consent.read_consents()} == {"judge"}
