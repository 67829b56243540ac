"""Shell completion in bash, zsh and fish."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ida_tui.cli import commands
from ida_tui.cli.main import command_parser
from tests.support.completion import offers
from tests.support.patience import PATIENCE_S
from tests.support.terminal import terminal

SEARCH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
"""Search path on which the command `ida-tui` is installed."""


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


def test_an_empty_command_line_completes_to_commands_and_flags() -> None:
    offered = offers("")

    assert set(commands.COMMANDS) <= set(offered)
    assert {"--run", "--list", "--check", "--show", "--version", "--help"} <= set(offered)
    assert offers("att") == ["attach"]
    assert offers("--ch") == ["--check"]


def test_profiles_keys_and_values_are_completed() -> None:
    assert offers("--run quick") == ["quickstart"]
    assert offers("--run=quick") == ["--run=quickstart"]
    assert offers("--list ju") == ["judges"]
    assert {"model=", "model.", "training.", "seed=", "device="} <= set(offers("--run x "))
    assert offers("--run x training.learn") == ["training.learning_rate="]
    assert offers("--run x judge.price.") == ["judge.price.input=", "judge.price.output="]
    assert offers("--run x judge=off") == ["judge=offline"]
    assert "model=qwen3-4b-mps-fp16" in offers("--run x seed=1 model=")
    assert offers("--check x training.loss_type=d") == [
        "training.loss_type=dr_grpo",
        "training.loss_type=dapo",
    ]
    assert offers("--run x training.token_budget=") == [
        "training.token_budget=auto",
        "training.token_budget=null",
    ]
    assert set(offers("--run x model.trust_remote_code=")) == {
        "model.trust_remote_code=true",
        "model.trust_remote_code=false",
    }
    Path("mine.yaml").touch()
    assert offers("--run ./mi") == ["./mine.yaml"]


def test_a_section_alone_is_completed_to_its_keys_because_a_space_would_follow_it() -> None:
    assert offers("--run x judge.pri") == ["judge.price.input=", "judge.price.output="]
    assert "training.learning_rate=" in offers("--run x tra")
    # zsh adds no space if the first candidate ends in an equals sign.
    assert offers("--run x mod") == ["model=", "model."]
    assert offers("--run x ")[0].endswith("=")


@pytest.mark.usefixtures("runs")
def test_runs_are_completed_for_commands_that_take_a_run() -> None:
    for command in ("attach", "resume", "evaluate", "rescore", "replay-judge", "compare"):
        assert offers(f"{command} ") == ["mine", "quickstart"], command
    assert offers("attach --lines qu") == ["quickstart"]
    assert offers("attach mine ") == []
    assert offers("compare mine quickstart/") == [
        "quickstart/20260202-101010",
        "quickstart/20260101-101010",
    ]
    assert "outputs/mine/20260101-101010/" in offers("attach outputs/mine/")
    assert offers("runs m") == ["mine"]


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_every_flag_of_a_command_is_completed(command: str) -> None:
    flags = {
        text
        for action in command_parser(command)._actions
        for text in action.option_strings
        if text.startswith("--")
    }
    assert set(offers(f"{command} --")) == flags


def test_the_arguments_of_commands_are_completed() -> None:
    Path("set.csv").touch()
    Path("folder").mkdir()
    assert offers("judge check off") == ["offline"]
    assert offers("judge check x judge.samp") == ["judge.samples="]
    assert offers("judge check judge.samp") == ["judge.samples="]
    assert offers("evaluate x --kind ") == ["harmless", "unsafe"]
    assert offers("evaluate x --judge off") == ["offline"]
    assert offers("evaluate x --prompts s") == ["set.csv"]
    assert offers("export x --output ") == ["folder/"]
    assert offers("resume x --with oblit-1-mps-") == ["oblit-1-mps-lowmem"]
    assert offers("rescore x scale") == ["scale_rewards="]
    assert offers("sweep quick") == ["quickstart"]
    assert offers("sweep quickstart see") == ["seed="]
    assert offers("cache ") == ["show", "export", "clear"]
    assert offers("cache export s") == ["set.csv"]
    assert offers("completions ") == ["bash", "zsh", "fish"]


def test_values_are_completed_after_flags_whatever_the_flags_values_are() -> None:
    assert offers("rescore x --json scale") == ["scale_rewards="]
    assert offers("--run x seed=1 --json judge=off") == ["judge=offline"]
    assert offers("sweep --jobs wrong quickstart --json see") == ["seed="]
    assert offers("evaluate x --samples ") == []
    assert offers("attach x --lines --js") == [], "it excludes --lines"
    assert offers("--run x --ru") == [], "it is already there"


@pytest.mark.parametrize("line", ["nonsense ", "nonsense --", "runs mine ", "attach 'x"])
def test_nothing_is_offered_where_nothing_can_follow(line: str) -> None:
    assert offers(line) == []


def test_names_with_control_characters_and_unreadable_folders_are_left_out() -> None:
    for name in ("plain.csv", "new\nline.csv", "tab\x0bbed.csv", "color\x1b[31m.csv"):
        Path(name).touch()
    Path(os.fsdecode(b"bad\xff.csv")).touch()
    Path("outputs", "e\nvil").mkdir(parents=True)
    profiles = Path(os.environ["IDA_TUI_PROFILES"])
    profiles.mkdir()
    (profiles / "experiments").touch()
    (profiles / "judges").mkdir()
    (profiles / "judges" / "broken.yaml").write_bytes(b"\xff: [")
    (profiles / "judges" / "con\x1btrol.yaml").touch()

    assert offers("evaluate x --prompts ") == ["outputs/", "plain.csv"]
    assert offers("evaluate x --prompts plain.csv/") == []
    assert offers("evaluate x --prompts ~nobody-has-this-name/") == []
    assert offers("attach ") == []
    assert offers("--run quick") == ["quickstart"]
    assert offers("doctor --judge bro") == ["broken"]
    assert offers("doctor --judge con") == []


def test_words_are_broken_and_quoted_as_in_bash() -> None:
    def reply(line: str, breaks: str = " \"'><=;|&(:") -> list[str]:
        return offers(
            line,
            _ARGCOMPLETE_SHELL="bash",
            _ARGCOMPLETE_SUPPRESS_SPACE="0",
            _ARGCOMPLETE_COMP_WORDBREAKS=breaks,
        )

    for name in ("co:lon.csv", "a;b$(c) d.csv"):
        Path(name).touch()
    assert reply("--run quick") == ["quickstart "]
    assert reply("--run x judge=off") == ["offline "]
    assert reply("--run x judge=off", breaks=" ") == ["judge=offline "]
    assert reply("--run x 'judge=off") == ["judge=offline"]
    assert reply("--run x training.beta") == ["training.beta="]
    assert reply("cache export co:") == ["lon.csv "]
    assert reply("cache export a") == [r"a\;b\$\(c\)\ d.csv "]


@pytest.mark.parametrize(
    "environment", [{}, {"COMP_LINE": "ida-tui ", "COMP_POINT": "x"}], ids=["no-line", "no-number"]
)
def test_a_failed_completion_prints_nothing(environment: dict[str, str]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ida_tui"],
        env=os.environ | {"_ARGCOMPLETE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_whole_words_and_adds_no_space_to_incomplete_ones(shell: str) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    Path("my set:1.csv").touch()
    options = {"bash": ("--norc", "--noprofile", "-i"), "zsh": ("-f", "-i")}[shell]
    with terminal(path, *options, PATH=SEARCH, PS1="ready> ") as session:
        session.wait_for("ready> ")
        if shell == "zsh":
            session.send("autoload -Uz compinit && compinit -D && bindkey -e\n")
        session.send(f"source <(ida-tui completions {shell}) && echo lo''aded\n")
        session.wait_for("loaded")
        session.send("ida-tui --ch\tquicks\tjudge=offl\ttraining.max_s\t7\n")
        session.wait_for("offline heuristic: no calls")
        assert b"7 steps" in session.output or b"7 (" in session.output
        for typed, words in {
            "ida-tui --run x tra\tbet\t1": "[--run][x][training.beta=1]",
            "ida-tui --run x 'judge=off\tseed=\t2": "[--run][x][judge=offline][seed=2]",
            "ida-tui cache export my\t": "[cache][export][my set:1.csv]",
            "A=1 ida-tui att\t--li\tx": "[A=1][ida-tui][attach][--lines][x]",
        }.items():
            # Ctrl-A goes to the start of the line; there, a command is typed that prints its words.
            session.send(f"{typed}\x01printf '[%s]' \n")
            session.wait_for(words)


def test_fish_completes_with_descriptions() -> None:
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("fish is not installed")
    Path("my set.csv").touch()
    lines = ("--run quickstart training.bet", "att", "--run x judge=off", "cache export m")
    script = "; ".join(
        ["ida-tui completions fish | source", *(f"complete -C 'ida-tui {line}'" for line in lines)]
    )
    result = subprocess.run(
        [fish, "--no-config", "-c", script],
        env=os.environ | {"PATH": SEARCH},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert [line.rstrip("\t") for line in result.stdout.splitlines()] == [
        "training.beta=\tKL coefficient; 0 needs no reference pass.",
        f"attach\t{commands.COMMANDS['attach']}",
        "judge=offline",
        "my set.csv",
    ]


def test_a_completion_imports_no_heavy_library() -> None:
    probe = (
        "import os, sys; from ida_tui.cli.main import entry\n"
        "try: entry()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'textual', 'openai', 'pydantic', 'ida_tui.cli.commands.runs'}\n"
        "os.write(1, repr(heavy & set(sys.modules)).encode())"
    )
    line = "ida-tui attach "
    environment = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": "answer",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    Path("outputs/mine/20260101-101010").mkdir(parents=True)
    result = subprocess.run(
        [sys.executable, "-c", probe],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert Path("answer").read_text().strip() == "mine"
    assert result.stdout == "set()"
