"""The help of every command: what it does, and examples to start from."""

from __future__ import annotations

import pytest

from ida_tui.cli import commands
from ida_tui.cli.main import command_parser, main


@pytest.mark.parametrize("word", commands.COMMANDS)
def test_the_help_of_a_command_says_what_it_does_and_has_examples(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([word, "--help"])

    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert commands.COMMANDS[word] in " ".join(shown.split())
    _, marked, examples = shown.partition("\nexamples:\n")
    assert marked, "it has examples"
    lines = [line for line in examples.splitlines() if line.startswith("  ")]
    assert any(line.startswith(f"  ida-tui {word}") for line in lines), examples
    assert "exit codes: 0 " in examples


@pytest.mark.parametrize("word", commands.COMMANDS)
def test_every_argument_of_a_command_is_explained(word: str) -> None:
    for action in command_parser(word)._actions:
        assert action.help, f"{word}: {action.option_strings or action.dest}"


def test_the_main_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])

    shown = capsys.readouterr().out
    for word, what in commands.COMMANDS.items():
        assert f"ida-tui {word}" in shown
        assert what in shown
