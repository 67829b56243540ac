"""The command `ida-tui cache [show|export FILE|clear]`: the judge cache on disk."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ida_tui.cli.output.lines import print_lines, print_status
from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.util.format import format_count
from ida_tui.util.text import as_json

if TYPE_CHECKING:
    from ida_tui.judge.cache.store import VerdictCache

EPILOG = """\
examples:
  ida-tui cache                        show its path, its size and its verdicts per judge
  ida-tui cache export verdicts.jsonl  write every verdict as a JSON line
  ida-tui cache clear --yes            delete all verdicts
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "action", nargs="?", choices=["show", "export", "clear"], default="show",
        help="show a summary, write the verdicts as JSON lines, or delete them all",
    )  # fmt: skip
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="with export: file to write, or - for standard output",
    )
    parser.add_argument(
        "--yes", action="store_true", help="with clear: do not ask for confirmation"
    )


def run(options: Namespace) -> ExitCode:
    """Show, export or clear the cache.

    Raises:
        UsageError: no file is given, or clearing needs a confirmation and stdin is not a terminal.
        IdaError: the cache or the file cannot be used.
    """
    from ida_tui.cli.output.cache import cache_lines
    from ida_tui.judge.cache.store import VerdictCache, max_cache_bytes
    from ida_tui.util.paths import cache_folder

    if options.file is not None and options.action != "export":
        raise UsageError(f"cache {options.action} takes no file", "ida-tui cache export FILE")
    warnings: list[str] = []
    cache = VerdictCache(cache_folder(), warnings.append, max_bytes=sys.maxsize)
    if not cache.enabled:
        raise IdaError(warnings[-1], "set IDA_TUI_CACHE_DIR to a writable folder")
    for warning in warnings:
        print_status(f"! {warning}")
    try:
        match options.action:
            case "export":
                return _export(cache, options.file)
            case "clear":
                return _clear(cache, confirm=not options.yes)
            case _:
                print_lines(cache_lines(cache, max_cache_bytes()))
                return ExitCode.DONE
    finally:
        cache.close()


def _export(cache: VerdictCache, file: str | None) -> ExitCode:
    if file is None:
        raise UsageError(
            "export needs a file", "ida-tui cache export FILE   (- for standard output)"
        )
    rows = (as_json(row) + "\n" for row in cache.export())
    if file == "-":
        sys.stdout.writelines(rows)
        return ExitCode.DONE
    path = Path(file).expanduser()
    try:
        with open(path, "x", encoding="utf-8") as out:
            out.writelines(rows)
    except FileExistsError:
        raise UsageError(f"{path} already exists", "choose another file name") from None
    except OSError as error:
        raise IdaError(
            f"could not write {path}: {error.strerror}", "choose another file name"
        ) from None
    print_lines([f"✓ {format_count(cache.count(), 'verdict')} written to {path}"])
    return ExitCode.DONE


def _clear(cache: VerdictCache, *, confirm: bool) -> ExitCode:
    count = cache.count()
    if confirm and count:
        if not sys.stdin.isatty():
            raise UsageError(
                "cannot ask for confirmation: stdin is not a terminal", "ida-tui cache clear --yes"
            )
        answer = input(f"Delete {format_count(count, 'verdict')}? New ones may cost money. [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            print_lines(["Nothing was deleted."])
            return ExitCode.DONE
    print_lines([f"✓ {format_count(cache.clear(), 'verdict')} deleted"])
    return ExitCode.DONE
