"""The help of every command: its description, arguments and examples."""

from __future__ import annotations

import pytest

from ida_tui.cli import commands
from ida_tui.cli.main import command_parser, main


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_the_help_of_a_command_describes_it_and_has_examples(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_request:
        main([command, "--help"])

    assert exit_request.value.code == 0
    shown = capsys.readouterr().out
    assert commands.COMMANDS[command] in " ".join(shown.split())
    _, separator, examples = shown.partition("\nexamples:\n")
    assert separator, "the help has no examples"
    lines = [line for line in examples.splitlines() if line.startswith("  ")]
    assert any(line.startswith(f"  ida-tui {command}") for line in lines), examples
    assert "exit codes: 0 " in examples


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_every_argument_of_a_command_is_explained(command: str) -> None:
    for action in command_parser(command)._actions:
        assert action.help, f"{command}: {action.option_strings or action.dest}"


def test_the_main_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])

    shown = capsys.readouterr().out
    for command, description in commands.COMMANDS.items():
        assert f"ida-tui {command}" in shown
        assert description in shown
