"""Shell completion in bash, zsh and fish."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from ida_tui.cli import commands
from ida_tui.cli.completion import config_keys
from ida_tui.cli.main import command_parser
from ida_tui.config import schema
from tests.conftest import IdaTui
from tests.support.patience import PATIENCE_S
from tests.support.terminal import terminal

SCRIPTS_FOLDER = str(Path(sys.executable).parent)
"""Directory in which the command `ida-tui` is installed."""


@pytest.fixture
def offers(ida_tui_here: IdaTui) -> types.FunctionType:
    """Returns the completions that are offered after these words."""

    def completions(*words: str) -> list[str]:
        result = ida_tui_here("__complete", "zsh", *words)
        assert result.code == 0, result.err
        return [line.partition("\t")[0] for line in result.out.splitlines()]

    return completions  # type: ignore[return-value]


@pytest.fixture
def runs() -> None:
    """Run directories of two experiments."""
    for name in (
        "quickstart/20260101-101010",
        "quickstart/20260202-101010",
        "mine/20260101-101010",
    ):
        (Path("outputs") / name).mkdir(parents=True)
        (Path("outputs") / name / "events.jsonl").touch()
    Path("outputs/quickstart/latest").symlink_to("20260202-101010")


def test_an_empty_command_line_completes_to_commands_and_flags(offers: types.FunctionType) -> None:
    offered = offers("")

    assert set(commands.COMMANDS) <= set(offered)
    assert {"--run", "--list", "--check", "--show", "--version", "--help"} <= set(offered)
    assert offers("att") == ["attach"]
    assert offers("--ch") == ["--check"]
    assert "__complete" not in offered


def test_profiles_keys_and_values_are_completed(offers: types.FunctionType) -> None:
    assert offers("--run", "quick") == ["quickstart"]
    assert offers("--list", "ju") == ["judges"]
    assert {"model=", "model.", "training.", "seed=", "device="} <= set(offers("--run", "x", ""))
    assert offers("--run", "x", "training.learn") == ["training.learning_rate="]
    assert offers("--run", "x", "judge.price.") == ["judge.price.input=", "judge.price.output="]
    assert offers("--run", "x", "judge=off") == ["judge=offline"]
    assert "model=qwen3-4b-mps-fp16" in offers("--run", "x", "seed=1", "model=")
    assert offers("--check", "x", "training.loss_type=d") == [
        "training.loss_type=dr_grpo",
        "training.loss_type=dapo",
    ]
    assert set(offers("--run", "x", "model.trust_remote_code=")) == {
        "model.trust_remote_code=true",
        "model.trust_remote_code=false",
    }


@pytest.mark.usefixtures("runs")
def test_runs_are_completed_for_commands_that_take_a_run(offers: types.FunctionType) -> None:
    for command in ("attach", "resume", "evaluate", "rescore", "replay-judge", "compare"):
        assert offers(command, "") == ["mine", "quickstart"], command
    assert offers("attach", "--lines", "qu") == ["quickstart"]
    assert offers("compare", "mine", "quickstart/") == [
        "quickstart/20260202-101010",
        "quickstart/20260101-101010",
    ]
    assert "outputs/mine/20260101-101010/" in offers("attach", "outputs/mine/")
    assert offers("runs", "m") == ["mine"]


def test_the_flags_and_arguments_of_every_command_are_completed(offers: types.FunctionType) -> None:
    for command in commands.COMMANDS:
        flags = {
            text
            for action in command_parser(command)._actions
            for text in action.option_strings
            if text.startswith("--")
        }
        assert set(offers(command, "--")) == flags, command
    assert offers("judge", "check", "off") == ["offline"]
    assert offers("judge", "check", "x", "judge.samp") == ["judge.samples="]
    assert offers("evaluate", "x", "--kind", "") == ["harmless", "unsafe"]
    assert offers("resume", "x", "--with", "oblit-1-mps-") == ["oblit-1-mps-lowmem"]
    assert offers("rescore", "x", "scale") == ["scale_rewards="]
    assert offers("completions", "") == ["bash", "zsh", "fish"]
    Path("set.csv").touch()
    assert offers("evaluate", "x", "--prompts", "s") == ["set.csv"]


def test_the_completed_keys_match_the_configuration_schema() -> None:
    sections = config_keys.config_sections()

    def compare(model: type[BaseModel]) -> None:
        keys = {key.name: key for key in sections[model.__name__]}
        assert list(keys) == list(model.model_fields), model.__name__
        for name, field in model.model_fields.items():
            nested = [
                kind
                for kind in (field.annotation, *get_args(field.annotation))
                if isinstance(kind, type) and issubclass(kind, BaseModel)
            ]
            if nested and not str(field.annotation).startswith("list"):
                assert keys[name].section == nested[0].__name__, name
                compare(nested[0])

    compare(schema.Config)


def test_a_bash_command_line_is_split_like_bash_does(ida_tui_here: IdaTui) -> None:
    def reply(line: str, breaks: str = " \"'><=;|&(:") -> list[str]:
        return ida_tui_here("__complete", "bash", breaks, line).out.splitlines()

    assert reply("ida-tui --run quick") == ["quickstart "]
    assert reply("ida-tui --run x judge=off") == ["offline "]
    assert reply("ida-tui --run x judge=off", breaks=" ") == ["judge=offline "]
    assert reply("ida-tui --run x 'judge=off") == ["offline "]
    assert reply("ida-tui --run x tra") == ["training."]
    assert reply("ida-tui --run x training.beta") == ["training.beta="]
    assert reply("ida-tui nonsense --wrong ") == []


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_a_command_that_runs(shell: str) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    options = {"bash": ("--norc", "--noprofile", "-i"), "zsh": ("-f", "-i")}[shell]
    search = f"{SCRIPTS_FOLDER}{os.pathsep}{os.environ['PATH']}"
    with terminal(path, *options, PATH=search, PS1="ready> ") as session:
        session.wait_for("ready> ")
        if shell == "zsh":
            session.send("autoload -Uz compinit && compinit -D\n")
        session.send(f"source <(ida-tui completions {shell}) && echo lo''aded\n")
        session.wait_for("loaded")
        session.send("ida-tui --ch\tquicks\tjudge=offl\ttraining.max_s\t7\n")
        session.wait_for("offline heuristic: no calls")
        assert b"7 steps" in session.output or b"7 (" in session.output


def test_fish_shows_a_description_of_each_key() -> None:
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("fish is not installed")
    script = (
        "ida-tui completions fish | source; complete -C 'ida-tui --run quickstart training.bet'"
    )
    search = f"{SCRIPTS_FOLDER}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        [fish, "--no-config", "-c", script],
        env=os.environ | {"PATH": search},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert result.stdout.splitlines() == [
        "training.beta=\tKL coefficient; 0 needs no reference pass."
    ]


def test_a_completion_imports_no_heavy_library() -> None:
    probe = (
        "import sys; from ida_tui.cli.main import main\n"
        "main(['__complete', 'zsh', '--run', 'quickstart', 'training.'])\n"
        "heavy = {'torch', 'transformers', 'textual', 'openai', 'pydantic'} & set(sys.modules)\n"
        "print(heavy, file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert result.stderr == "set()\n"
    assert "training.learning_rate=" in result.stdout
