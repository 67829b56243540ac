"""The `ida-tui` command: flags, `key=value` overrides, exit codes.

Nothing heavy is imported before it is needed: help, version, listing and checking import neither
torch nor transformers nor trl nor textual.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ida_tui import __version__
from ida_tui.cli import commands
from ida_tui.cli.exit import leave
from ida_tui.engine.distributed.environment import Place, place
from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.util.text import printable, printable_text

if TYPE_CHECKING:
    from ida_tui.config.resolve import Resolved

EXAMPLES = """\
examples:
  ida-tui                                        the app: choose, start and watch a run
  ida-tui --run quickstart                       train the built-in model, no network, no key
  ida-tui --run dev-mps model=qwen3-4b-mps-fp16  two steps of a 4B model on a Mac
  ida-tui --run dev-mps training.learning_rate=2e-5 judge=ollama
  ida-tui --run oblit-1-mps --detach             train on without this terminal; then ida-tui attach
  ida-tui --check oblit-1-mps                    what would be run, without running it
  ida-tui --show dev-mps                         every value, and where it comes from
  torchrun --nproc_per_node 2 -m ida_tui run quickstart     two processes, the same training

"""
EXITS = """\
exit codes: 0 done, 1 failed, 2 bad usage or profile, 3 judge unavailable, 4 out of memory,
5 device unusable, 6 stopped by an alert, 130 interrupted (a checkpoint was written)
"""


def entry() -> NoReturn:
    """The `ida-tui` command as a whole process."""
    code = main()
    leave(code)
    raise SystemExit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["run"]:
        arguments[0] = "--run"  # torchrun would take --run for its own --run-path
    try:
        where = place()
        if not where.alone:
            return _one_of_several(where, arguments)
        return int(_dispatch(arguments))
    except IdaError as error:
        print(*map(printable, error.lines()), sep="\n", file=sys.stderr)
        return int(error.code)
    except BrokenPipeError:
        # The reader of our output went away (`| head`): not worth a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.DONE)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)


def _one_of_several(where: Place, arguments: list[str]) -> int:
    """Rank 0 does what is asked; the others take part in the run that comes of it, if one does."""
    if where.rank:
        from ida_tui.cli.worker import take_part

        return take_part(where)
    from ida_tui.engine.distributed.process_group import dismiss

    code = int(ExitCode.FAILED)
    try:
        trains = arguments[:1] == ["resume"] or any(word.startswith("--run") for word in arguments)
        if not trains or "--detach" in arguments:
            raise UsageError(
                f"{where.world} processes are for a run or its resumption, without a screen and in the"
                " foreground",
                "torchrun --nproc_per_node N -m ida_tui run PROFILE; ida-tui attach watches it",
            )
        code = int(_dispatch(arguments))
    except IdaError as error:
        code = int(error.code)
        raise
    finally:
        dismiss(where, code)
    return code


def _dispatch(arguments: list[str]) -> ExitCode:
    if arguments and arguments[0] in commands.WORDS:
        return _word(arguments[0], arguments[1:])
    if arguments[:1] == ["__complete"]:
        return _complete(arguments[1:])
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    flags = [name for name in _FLAGS if getattr(options, name)]
    if len(flags) > 1:
        raise UsageError(
            f"--{flags[0]} and --{flags[1]} cannot be used together", "choose one of them"
        )
    if options.json and flags != ["run"]:
        raise UsageError("--json goes with --run", "ida-tui --run PROFILE --json")
    if options.detach and flags != ["run"]:
        raise UsageError("--detach goes with --run", "ida-tui --run PROFILE --detach")
    if options.detach and options.json:
        raise UsageError(
            "--detach prints no events", "ida-tui attach RUN --json follows the run that it starts"
        )
    if not flags:
        if options.overrides:
            raise UsageError(
                f"nothing to do with {options.overrides[0]!r}",
                "ida-tui --run PROFILE key=value …   (ida-tui --list shows the profiles)",
            )
        from ida_tui.tui.main import run

        return run(sys.argv)
    return _FLAGS[flags[0]](options)


def _word(word: str, arguments: list[str]) -> ExitCode:
    options = word_parser(word).parse_intermixed_args(arguments)
    return commands.command(word).run(options)


def _complete(arguments: list[str]) -> ExitCode:
    """What a shell's completion script asks: `ida_tui.cli.completion.candidates.answer`."""
    from ida_tui.cli.completion.candidates import Grammar, answer

    shell, *typed = arguments or ["zsh"]
    for line in answer(shell, typed, Grammar(_parser, word_parser, commands.WORDS)):
        print(line)
    return ExitCode.DONE


def word_parser(word: str) -> argparse.ArgumentParser:
    """The parser of a command that is a word."""
    parser = _Parser(
        prog=f"ida-tui {word}",
        description=commands.WORDS[word],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands.command(word).add(parser)
    if "exit codes:" not in (parser.epilog or ""):
        parser.epilog = f"{parser.epilog or ''}\n{EXITS}"
    return parser


def _run(options: argparse.Namespace) -> ExitCode:
    resolved = _resolve(options.run, options.overrides)
    from ida_tui.judge.api_key import load_key

    # The key is looked for before anything slow is imported or loaded.
    key = load_key(resolved.config.judge, dotenv_dir=Path.cwd())
    if options.detach:
        from ida_tui.cli.background import detach

        return detach(resolved.config, ["--run", options.run, *options.overrides])
    from ida_tui.cli.train import run

    return run(resolved.config, key=key, argv=sys.argv, as_json=options.json)


def _list(options: argparse.Namespace) -> ExitCode:
    from ida_tui.config.listing import render_list

    print(printable_text(render_list(None if options.list == "all" else options.list)))
    return ExitCode.DONE


def _show(options: argparse.Namespace) -> ExitCode:
    from ida_tui.config.listing import show

    print(printable_text(show(options.show, options.overrides)))
    return ExitCode.DONE


def _check(options: argparse.Namespace) -> ExitCode:
    from ida_tui.planning.preview import render_check

    print(printable_text(render_check(_resolve(options.check, options.overrides))))
    return ExitCode.DONE


_FLAGS = {"run": _run, "list": _list, "show": _show, "check": _check}


def _resolve(profile: str, overrides: list[str]) -> Resolved:
    """Resolve a profile; `--run experiment=NAME …`, as in the quick start, names it as an override."""
    from ida_tui.config.resolve import resolve

    if "=" in profile and not Path(profile).is_file():
        return resolve(None, [profile, *overrides])
    return resolve(profile, overrides)


def _epilog() -> str:
    width = max(map(len, commands.WORDS))
    lines = [f"  ida-tui {word:<{width}} {what}" for word, what in commands.WORDS.items()]
    return "\n".join(["commands (each with --help):", *lines, "", EXAMPLES, EXITS])


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as every other error is reported."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"{self.prog} --help lists what it takes")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ida-tui",
        usage="ida-tui   or   ida-tui [--run | --check | --show] PROFILE [key=value ...]",
        description="Reinforcement fine-tuning you can watch: GRPO on your own machine. "
        "Without a flag the app opens.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--run", metavar="PROFILE", help="train without a screen")
    parser.add_argument("--check", metavar="PROFILE", help="resolve and plan, run nothing")
    parser.add_argument("--show", metavar="PROFILE", help="print every value and its origin")
    parser.add_argument(
        "--list",
        nargs="?",
        const="all",
        metavar="KIND",
        help="list the profiles (models, experiments, judges, rubrics, prompts)",
    )
    parser.add_argument("--json", action="store_true", help="with --run: events as JSON lines")
    parser.add_argument(
        "--detach", action="store_true", help="with --run: train on without this terminal"
    )
    parser.add_argument("--version", action="version", version=f"ida-tui {__version__}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a value")
    return parser
