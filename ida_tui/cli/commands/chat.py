"""`ida-tui chat RUN`: talk to the model, and to the one that it was before, side by side."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.util.text import printable

EPILOG = """\
examples:
  ida-tui chat quickstart                                   on a screen
  echo "How do I whisk an egg?" | ida-tui chat quickstart   in a pipe; --lines does it on a terminal
  ida-tui chat quickstart --lines --judge --save < questions.txt
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "name", metavar="RUN", help="its folder, its id, or an experiment (its newest run)"
    )
    parser.add_argument(
        "--lines", action="store_true", help="a message a line from stdin; no screen"
    )
    parser.add_argument("--json", action="store_true", help="lines, each answered with JSON")
    parser.add_argument("--judge", action="store_true", help="lines: have the answers scored")
    parser.add_argument(
        "--kind",
        choices=["harmless", "unsafe"],
        default="harmless",
        help="lines: what the messages are, for judging and saving (harmless)",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--greedy", action="store_true", help="lines: always the likeliest token")
    how.add_argument(
        "--temperature", type=float, metavar="T", help="lines: of the sampling; the profile's"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="lines: every message begins a new conversation"
    )
    parser.add_argument(
        "--save", action="store_true", help="lines: keep the messages as prompts, with the run"
    )


def run(options: Namespace) -> ExitCode:
    """Talk until there is nothing more to say.

    Raises:
        UsageError: there is no such run, or it has no weights.
        IdaError: the model cannot be used.
    """
    from ida_tui.runs.resume import find

    lines = _in_lines(options)
    directory = find(options.name, Path("outputs"))
    temperature = 0.0 if options.greedy else options.temperature
    if temperature is not None and not 0 <= temperature <= 10:
        raise UsageError("--temperature goes from 0 to 10", "0 is the same as --greedy")
    if not lines:
        from ida_tui.tui.main import run as app

        return app(sys.argv, chatting=directory.path)
    from ida_tui.cli.output.chat import talk
    from ida_tui.engine.inference.chat import Chat

    said = talk(
        Chat(directory),
        _typed(),
        kind=options.kind,
        temperature=temperature,
        judged=options.judge,
        fresh=options.fresh,
        in_json=options.json,
    )
    if options.save and said:
        from ida_tui.runs.store import chats
        from ida_tui.util.paths import shown_path

        try:
            file = shown_path(chats.save(directory, said, datetime.now()))
        except OSError as error:
            raise IdaError(f"they cannot be kept: {error.strerror or error}") from None
        print(printable(f"✓ kept as prompts: prompts={file}"), file=sys.stderr)
    return ExitCode.DONE


def _in_lines(options: Namespace) -> bool:
    if options.lines or options.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    flags = ("judge", "greedy", "fresh", "save")
    named = [f"--{flag}" for flag in flags if getattr(options, flag)]
    if named or options.temperature is not None:
        raise UsageError(
            f"{named[0] if named else '--temperature'} goes with --lines",
            "on the screen there are keys for it",
        )
    return False


def _typed() -> Iterator[str]:
    """The lines of stdin; on a terminal each is asked for."""
    if sys.stdin.isatty():
        print("a message a line; ctrl-d ends", file=sys.stderr)
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line
