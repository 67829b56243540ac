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

from ida_tui.config.embedded import model_folder
from ida_tui.config.trust import consent
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


# --- reward functions ------------------------------------------------------------------------------


def run_functions_of(run: Path, kind: str) -> str:
    """Have the run's config name a function; returns the function as it is shown."""
    if kind == "file":
        file = run / "rewards.py"
        file.write_text("open('PWNED', 'w').close()\ndef f(completion): return 1\n")
        axis: dict[str, Any] = {"function": f"{file.resolve()}:f"}
        shown = axis["function"]
    else:
        options = {"args": "touch PWNED", "shell": True}
        axis = {"function": "subprocess:run", "options": options}
        shown = 'subprocess:run with {"args": "touch PWNED", "shell": true}'
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["rubric"] = {"name": "theirs", "axes": {"f": axis}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return shown


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("file", ("resume", RUN)),
        ("file", ("evaluate", RUN)),
        ("file", ("chat", RUN, "--lines", "--judge")),
        ("module", ("--run", f"{RUN}/config.yaml")),
        ("file", ("sweep", f"{RUN}/config.yaml", "seed=0,1")),
        ("file", ("reward", "check", f"{RUN}/config.yaml")),
        ("module", ("reward", "check", f"{RUN}/config.yaml")),
    ],
)
def test_no_command_runs_a_function_that_only_a_stranger_names(
    own_run: Path,
    ida_tui_here: Any,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    kind: str,
) -> None:
    shown = run_functions_of(own_run, kind)
    reopen(own_run)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))

    result = ida_tui_here(*command)

    assert result.code == 2, result.err
    assert f"runs the Python function {shown}" in result.err
    assert "rubric.axes.f.function=" in result.err
    assert not Path("PWNED").exists()


def test_commands_that_score_nothing_run_no_function_and_ask_nothing(
    own_run: Path, ida_tui_here: Any
) -> None:
    run_functions_of(own_run, "file")
    for command in (
        ("--show", f"{RUN}/config.yaml"),
        ("runs",),
        ("compare", RUN),
        ("report", RUN),
        ("rescore", RUN, "formula=f"),
    ):
        result = ida_tui_here(*command)

        assert "runs the Python function" not in result.err, command
        assert "Traceback" not in result.out + result.err, command
        assert not Path("PWNED").exists(), command


def test_typed_functions_and_options_agree_together(own_run: Path, ida_tui_here: Any) -> None:
    run_functions_of(own_run, "module")
    function = "rubric.axes.f.function=subprocess:run"
    only_function = ida_tui_here("reward", "check", f"{RUN}/config.yaml", function)
    assert only_function.code == 2
    assert "rubric.axes.f.options.shell=true" in only_function.err
    assert not Path("PWNED").exists()


def test_the_typed_function_of_a_stranger_s_run_runs(own_run: Path, ida_tui_here: Any) -> None:
    shown = run_functions_of(own_run, "file")
    words = f"rubric.axes.f.function={shown}"

    result = ida_tui_here("reward", "check", f"{RUN}/config.yaml", words)

    assert "runs the Python function" not in result.err
    assert Path("PWNED").exists()


def test_a_run_s_own_functions_are_not_asked_about_again(ida_tui_here: Any) -> None:
    Path("rewards.py").write_text("def short(completion): return -len(completion) / 100\n")
    done = ida_tui_here(
        "--run", "quickstart", "rubric=rewards.py", "training.max_steps=2", "training.save_steps=1",
        "training.num_generations=2", "training.per_device_train_batch_size=2",
        "training.max_completion_length=4", "evaluation.samples=1",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "scored by: reward functions" in done.out
    assert "judge_batch" not in done.out
    assert "Reward function rewards.py:short computes short" in done.out
    run = Path(RUN)
    manifest = json.loads((run / "manifest.json").read_text())
    assert list(manifest["reward_files"]) == [str(Path("rewards.py").absolute())]

    checked = ida_tui_here("evaluate", RUN, "--samples", "1")
    assert checked.code == 0, checked.err
    assert "scored by reward functions" in checked.out

    Path("rewards.py").write_text("def short(completion): return -len(completion) / 200\n")
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    first_step = next(e["seq"] for e in events if e["type"] == "CheckpointSaved")
    (run / "events.jsonl").write_text(
        "".join(json.dumps(event) + "\n" for event in events if event["seq"] <= first_step)
    )
    resumed = ida_tui_here("resume", RUN)
    assert resumed.code == 0, resumed.err
    assert "the reward functions changed: scores before and after this point" in resumed.out
