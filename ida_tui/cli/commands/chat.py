"""The command `ida-tui chat RUN`: chat with the trained model and the base model side by side."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from ida_tui.cli.arguments import add_consent_arguments, add_run_argument, check_override_keys
from ida_tui.cli.output.lines import print_status
from ida_tui.cli.output.streams import background_output
from ida_tui.errors import ExitCode, IdaError, UsageError

EPILOG = """\
examples:
  ida-tui chat quickstart                                   chat in the app
  echo "How do I whisk an egg?" | ida-tui chat quickstart   chat in a pipe; on a terminal, add --lines
  ida-tui chat quickstart --lines --judge --save < questions.txt
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    add_run_argument(parser)
    add_consent_arguments(parser)
    parser.add_argument(
        "--lines",
        action="store_true",
        help="read one message per line from stdin instead of opening the app",
    )
    parser.add_argument("--json", action="store_true", help="like --lines, but print JSON")
    parser.add_argument(
        "--judge", action="store_true", help="with --lines: score the answers with the judge"
    )
    parser.add_argument(
        "--kind",
        choices=["harmless", "unsafe"],
        default="harmless",
        help="with --lines: kind of the messages, for the judge and for --save (harmless)",
    )
    sampling = parser.add_mutually_exclusive_group()
    sampling.add_argument("--greedy", action="store_true", help="with --lines: use greedy decoding")
    sampling.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="with --lines: sampling temperature (default: the profile's)",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="with --lines: start a new conversation with every message",
    )
    parser.add_argument(
        "--save",
        action="store_true",
        help="with --lines: save the messages as prompts in the run directory",
    )


def run(options: Namespace) -> ExitCode:
    """Chat until the input ends.

    Raises:
        UsageError: there is no such run, or it has no weights.
        IdaError: the model cannot be loaded or used.
    """
    from ida_tui.config.resolve import resolve
    from ida_tui.config.trust.consent import CONSENT_KEYS, Use, is_consent_key
    from ida_tui.runs.catalog.lookup import find_run

    lines = _uses_lines(options)
    directory = find_run(options.name, Path("outputs"))
    temperature = 0.0 if options.greedy else options.temperature
    if temperature is not None and not 0 <= temperature <= 10:
        raise UsageError("--temperature must be from 0 to 10", "0 is the same as --greedy")
    others = [o for o in options.overrides if not is_consent_key(o.partition("=")[0])]
    check_override_keys(others, CONSENT_KEYS)
    uses: tuple[Use, ...] = ("code", "judge", "functions") if options.judge else ("code",)
    trusted = resolve(str(directory.config), options.overrides, uses=uses).config
    if not lines:
        from ida_tui.config.trust.consent import remember_run
        from ida_tui.tui.main import run_app

        if options.overrides:
            remember_run(trusted, directory.path, uses)  # the app reads the run's own values
        return run_app(sys.argv, chat_directory=directory.path)
    from ida_tui.cli.output.chat import run_chat
    from ida_tui.engine.inference.chat import Chat

    # If the reader of the answers leaves, the messages are still saved.
    with background_output():
        messages = run_chat(
            Chat(directory, options.overrides),
            _read_messages(),
            kind=options.kind,
            temperature=temperature,
            use_judge=options.judge,
            fresh=options.fresh,
            as_json_lines=options.json,
        )
    if options.save and messages:
        from ida_tui.runs.store import chats
        from ida_tui.util.paths import display_path

        try:
            file = display_path(chats.save_chat(directory, messages, datetime.now()))
        except OSError as error:
            raise IdaError(f"could not save the messages: {error.strerror or error}") from None
        print_status(f"✓ messages saved; to train on them, set prompts={file}")
    return ExitCode.DONE


def _uses_lines(options: Namespace) -> bool:
    if options.lines or options.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    flags = ("judge", "greedy", "fresh", "save")
    given = [f"--{flag}" for flag in flags if getattr(options, flag)]
    if given or options.temperature is not None:
        raise UsageError(
            f"{given[0] if given else '--temperature'} needs --lines",
            "add --lines, or use the keys of the app instead",
        )
    return False


def _read_messages() -> Iterator[str]:
    """The lines of stdin; on a terminal, with a prompt before each."""
    if sys.stdin.isatty():
        print_status("One message per line; Ctrl-D ends the chat.")
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line
