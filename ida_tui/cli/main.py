"""The `ida-tui` command line: flags, `key=value` overrides and exit codes.

Heavy libraries are imported only when they are needed: help, version, listing and checking import neither
torch nor transformers nor trl nor textual.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ida_tui.cli import commands
from ida_tui.cli.arguments import add_flags, add_override_arguments
from ida_tui.cli.exit import fast_exit
from ida_tui.cli.output import streams
from ida_tui.cli.output.lines import print_lines, print_status
from ida_tui.engine.distributed.environment import ProcessInfo, process_info
from ida_tui.errors import (
    ExitCode,
    IdaError,
    UsageError,
    missing_library_error,
    out_of_memory_message,
)
from ida_tui.system import launcher
from ida_tui.util.text import multiple_lines, one_line

if TYPE_CHECKING:
    from ida_tui.config.resolve import DataUse, ResolvedExperiment

EXAMPLES = """\
examples:
  ida-tui                                        open the app: choose, start and watch a run
  ida-tui --run quickstart                       train the built-in model; needs no network and no API key
  ida-tui --run dev-mps model=qwen3-4b-mps-fp16  train a 4B model on a Mac for two steps
  ida-tui --run dev-mps training.learning_rate=2e-5 judge=ollama
  ida-tui --run oblit-1-mps --detach             train in the background; watch it with ida-tui attach
  ida-tui --check oblit-1-mps                    show what would run, without running it
  ida-tui --show dev-mps                         show every value and where it comes from
  torchrun --nproc_per_node 2 -m ida_tui run quickstart     train with two processes

"""
EXIT_CODES = """\
exit codes: 0 done, 1 failed, 2 bad usage or profile, 3 judge unavailable, 4 out of memory,
5 device unusable, 6 stopped by an alert, 130 interrupted (a checkpoint was written)
"""


def entry() -> NoReturn:
    """Run the `ida-tui` command, then end the process with its exit code."""
    if "_ARGCOMPLETE" in os.environ:
        from ida_tui.cli.completion.answer import answer_shell

        answer_shell()
    streams.open_standard_streams()
    # Python processes that libraries start do not search the working directory for modules either.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    code = 0
    try:
        try:
            code = main()
        except SystemExit as exited:  # argparse has printed help or the version
            code = int(exited.code or 0)
        sys.stdout.flush()
    except streams.OutputError as error:
        code = code or _report_output_error(error)
    fast_exit(code)
    raise SystemExit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Files that are written may hold prompts, completions and settings: only their owner can read them.
    os.umask(os.umask(0o077) | 0o077)
    if arguments[:1] == ["run"]:
        arguments[0] = "--run"  # torchrun reads --run as its own --run-path
    try:
        if _starts_runs(arguments):
            launcher.require_one_run()
            if note := launcher.single_process_note():
                print_status(f"! {note}")
        process = process_info()
        if not process.is_single:
            return _run_distributed(process, arguments)
        return int(_dispatch_with_consent(arguments))
    except IdaError as error:
        print_lines(error.lines(), file=sys.stderr)
        return int(error.code)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    except Exception as error:
        explained = _explain(error)
        if explained is None:
            raise
        print_lines(explained.lines(), file=sys.stderr)
        return int(explained.code)


def _explain(error: Exception) -> IdaError | None:
    """The error to show for a failure of the network or the machine, or a missing library; None for a bug."""
    import sqlite3

    from ida_tui.runs.log.disk_errors import explain_disk_error
    from ida_tui.util.network_errors import explain_network_error

    if explained := explain_network_error(error):
        return explained
    if isinstance(error, ModuleNotFoundError):
        return missing_library_error(error)
    if message := out_of_memory_message(error):
        hint = "close other programs, or use a machine with more memory"
        return IdaError(message, hint, code=ExitCode.OUT_OF_MEMORY)
    if isinstance(error, sqlite3.Error):
        return IdaError(
            f"a database failed: {one_line(str(error))}",
            "check that the disk has space and that you may read and write there",
        )
    return explain_disk_error(error, Path())


def _require_no_empty_argument(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> None:
    """Check that no argument is an empty string, such as an unset variable of a script.

    Raises:
        UsageError: an argument is empty.
    """
    for action in parser._actions:
        given = getattr(options, action.dest, None)
        if given == action.const:
            continue  # an option that was given without its value
        if given == "" or (isinstance(given, list) and "" in given):
            name = action.option_strings[-1] if action.option_strings else action.metavar
            raise UsageError(
                f"the value of {name or action.dest} is empty",
                "write a value, or leave the argument out",
            )


def _require_working_folder() -> None:
    """Check that the working folder exists; relative paths, such as `outputs`, need it.

    Raises:
        UsageError: the folder was removed.
    """
    try:
        Path.cwd()
    except OSError:
        raise UsageError(
            "the working folder no longer exists", "change to a folder that exists: cd FOLDER"
        ) from None


def _report_output_error(error: streams.OutputError) -> int:
    """Report that stdout cannot be written; a reader that is gone, such as `head`, is not an error."""
    if error.reader_is_gone:
        return int(ExitCode.DONE)
    print_lines([f"error: {error.text}"], file=sys.stderr)
    return int(ExitCode.FAILED)


def _starts_runs(arguments: list[str]) -> bool:
    """Whether a command line trains."""
    return arguments[:1] in (["resume"], ["sweep"]) or any(
        argument.startswith("--run") for argument in arguments
    )


def _run_distributed(process: ProcessInfo, arguments: list[str]) -> int:
    """Run the command on rank 0; the other ranks are its worker processes if it trains."""
    if process.rank:
        from ida_tui.cli.worker import run_worker

        return run_worker(process)
    from ida_tui.engine.distributed.process_group import announce_no_run

    code = int(ExitCode.FAILED)
    try:
        if not _starts_runs(arguments) or arguments[0] == "sweep" or "--detach" in arguments:
            raise UsageError(
                f"{process.world_size} processes can only train or resume a run, in the foreground and"
                " without the app",
                "torchrun --nproc_per_node N -m ida_tui run PROFILE; watch it with ida-tui attach",
            )
        code = int(_dispatch(arguments))
    except IdaError as error:
        code = int(error.code)
        raise
    finally:
        announce_no_run(process, code)
    return code


def _dispatch_with_consent(arguments: list[str]) -> ExitCode:
    """Run the command; on a terminal, ask for a missing agreement once and run it again."""
    try:
        return _dispatch(arguments)
    except UsageError as error:
        from ida_tui.cli.consent import ask_for_consent
        from ida_tui.config.trust.consent import ConsentRequired

        if not isinstance(error, ConsentRequired) or not ask_for_consent(error):
            raise
    return _dispatch(arguments)


def _dispatch(arguments: list[str]) -> ExitCode:
    if arguments and arguments[0] in commands.COMMANDS:
        return _run_command(arguments[0], arguments[1:])
    parser = _main_parser()
    options = parser.parse_intermixed_args(arguments)
    _require_no_empty_argument(parser, options)
    _require_working_folder()
    flags = [name for name in _FLAG_HANDLERS if getattr(options, name) is not None]
    if len(flags) > 1:
        raise UsageError(
            f"--{flags[0]} and --{flags[1]} cannot be used together", "use only one of the two"
        )
    if options.json and flags != ["run"]:
        raise UsageError("--json needs --run", "ida-tui --run PROFILE --json")
    if options.detach and flags != ["run"]:
        raise UsageError("--detach needs --run", "ida-tui --run PROFILE --detach")
    if options.detach and options.json:
        raise UsageError(
            "--detach prints no events", "follow the new run with: ida-tui attach RUN --json"
        )
    if not flags:
        if options.overrides:
            raise UsageError(
                f"unknown command {options.overrides[0]!r}",
                "list the commands with: ida-tui --help; to train: ida-tui --run PROFILE key=value …",
            )
        from ida_tui.tui.main import run_app

        return run_app(sys.argv)
    return _FLAG_HANDLERS[flags[0]](options)


def _run_command(name: str, arguments: list[str]) -> ExitCode:
    parser = command_parser(name)
    options = parser.parse_intermixed_args(arguments)
    _require_no_empty_argument(parser, options)
    _require_working_folder()
    if name not in commands.WORKING_COMMANDS:
        return commands.load_command(name).run(options)
    with streams.background_output() as output:
        code = commands.load_command(name).run(options)
    if output.stdout.error is not None and code == ExitCode.DONE:
        output_error = streams.OutputError(output.stdout.error)
        return ExitCode(_report_output_error(output_error))
    return code


def command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of a subcommand such as `ida-tui doctor`."""
    parser = _Parser(
        prog=f"ida-tui {name}",
        description=commands.COMMANDS[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands.load_command(name).add(parser)
    if "exit codes:" not in (parser.epilog or ""):
        parser.epilog = f"{parser.epilog or ''}\n{EXIT_CODES}"
    return parser


def _run_profile(options: argparse.Namespace) -> ExitCode:
    resolved = _resolve_profile(options.run, options.overrides)
    from ida_tui.judge.api_key import load_api_key

    # A missing API key is reported before anything slow is imported or loaded.
    key = load_api_key(resolved.config.judge, dotenv_dir=Path.cwd())
    if options.detach:
        from ida_tui.cli.background import start_in_background

        return start_in_background(resolved.config, ["--run", options.run, *options.overrides])
    from ida_tui.cli.restarted import continue_run, restarted_run
    from ida_tui.cli.train import train

    if earlier := restarted_run(resolved.config):
        return continue_run(earlier, as_json=options.json)
    return train(resolved.config, key=key, argv=sys.argv, as_json=options.json)


def _list_profiles(options: argparse.Namespace) -> ExitCode:
    from ida_tui.config.listing import render_list

    print(multiple_lines(render_list(None if options.list == "all" else options.list)))
    return ExitCode.DONE


def _show_profile(options: argparse.Namespace) -> ExitCode:
    from ida_tui.config.listing import render_profile

    print(multiple_lines(render_profile(options.show, options.overrides)))
    return ExitCode.DONE


def _check_profile(options: argparse.Namespace) -> ExitCode:
    from ida_tui.planning.hub_models import HubUnreachable, fetch_settings
    from ida_tui.planning.preview import render_preview

    resolved = _resolve_profile(options.check, options.overrides, data="download_own")
    hub_note = ""
    try:
        fetch_settings(resolved.config.model)
    except HubUnreachable as error:
        hub_note = error.title
    print(multiple_lines(render_preview(resolved, hub_note=hub_note)))
    return ExitCode.DONE


_FLAG_HANDLERS = {
    "run": _run_profile,
    "list": _list_profiles,
    "show": _show_profile,
    "check": _check_profile,
}


def _resolve_profile(
    profile: str, overrides: list[str], data: DataUse = "download"
) -> ResolvedExperiment:
    """Resolve a profile; `--run experiment=NAME …` names it with an override, as in the quick start."""
    from ida_tui.config.resolve import resolve

    if "=" in profile and not Path(profile).is_file():
        return resolve(None, [profile, *overrides], data=data)
    return resolve(profile, overrides, data=data)


def _epilog() -> str:
    width = max(map(len, commands.COMMANDS))
    lines = [f"  ida-tui {word:<{width}} {summary}" for word, summary in commands.COMMANDS.items()]
    return "\n".join(["commands (each with --help):", *lines, "", EXAMPLES, EXIT_CODES])


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises `UsageError`, so that all errors are reported the same way."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"list the arguments with: {self.prog} --help")


def _main_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ida-tui",
        usage="ida-tui   or   ida-tui [--run | --check | --show] PROFILE [key=value ...]",
        description="Reinforcement fine-tuning you can watch: GRPO on your own machine. "
        "Without arguments, ida-tui opens the app.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_flags(parser)
    add_override_arguments(parser)
    return parser
