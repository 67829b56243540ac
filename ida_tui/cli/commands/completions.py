"""The command `ida-tui completions bash|zsh|fish`: print the shell completion script."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ida_tui.errors import ExitCode

SHELLS = ("bash", "zsh", "fish")

EPILOG = """\
examples:
  ida-tui completions bash > ~/.local/share/bash-completion/completions/ida-tui
  ida-tui completions zsh > "${fpath[1]}/_ida-tui"
  ida-tui completions fish > ~/.config/fish/completions/ida-tui.fish
  source <(ida-tui completions bash)     in this terminal only

Completes commands, flags, profiles, runs, override keys and values, always from their current state.
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("shell", choices=SHELLS, help="the shell that runs the script")


def run(options: Namespace) -> ExitCode:
    """Print the script."""
    from argcomplete.shell_integration import shellcode

    # Without defaults: where nothing completes, no file names are offered.
    print(shellcode(["ida-tui"], use_defaults=False, shell=options.shell), end="")
    return ExitCode.DONE
