"""`ida-tui cache [show|export FILE|clear]`: the verdicts that are kept on disk."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.util.text import as_json, printable

if TYPE_CHECKING:
    from ida_tui.judge.cache.store import VerdictCache

EPILOG = """\
examples:
  ida-tui cache                        where it lies, how large it is, whose verdicts it holds
  ida-tui cache export verdicts.jsonl  every verdict as a JSON line
  ida-tui cache clear --yes            forget them all
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "what", nargs="?", choices=["show", "export", "clear"], default="show",
        help="show what is kept, write it as JSON lines, or forget it all",
    )  # fmt: skip
    parser.add_argument("file", nargs="?", help="with export: the file; - is standard output")
    parser.add_argument("--yes", action="store_true", help="with clear: do not ask")


def run(options: Namespace) -> ExitCode:
    """Carry it out.

    Raises:
        UsageError: the file is missing, or there is nobody to ask.
        IdaError: the cache or the file cannot be used.
    """
    from ida_tui.judge.cache.store import VerdictCache, cache_folder, size_cap

    if options.file is not None and options.what != "export":
        raise UsageError(f"cache {options.what} takes no file", "ida-tui cache export FILE")
    warnings: list[str] = []
    cache = VerdictCache(cache_folder(), warnings.append, max_bytes=sys.maxsize)
    if not cache.enabled:
        raise IdaError(warnings[-1], "set IDA_TUI_CACHE_DIR to a folder that can be written to")
    for warning in warnings:
        print(printable(f"! {warning}"), file=sys.stderr)
    try:
        match options.what:
            case "export":
                return _export(cache, options.file)
            case "clear":
                return _clear(cache, asked=not options.yes)
            case _:
                return _show(cache, size_cap())
    finally:
        cache.close()


def _show(cache: VerdictCache, cap: int) -> ExitCode:
    print(printable(f"file      {cache.path}"))
    print(f"verdicts  {cache.count():,}")
    print(
        f"size      {cache.size() / 1e6:.1f} MB of at most {cap / 1e6:,.0f} MB (IDA_TUI_CACHE_MB)"
    )
    for judge, count, first, last in cache.by_judge():
        print(printable(f"  {count:>8,}  {judge}   {first} to {last}"))
    return ExitCode.DONE


def _export(cache: VerdictCache, file: str | None) -> ExitCode:
    if file is None:
        raise UsageError(
            "export needs a file", "ida-tui cache export FILE   (- is standard output)"
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
        raise UsageError(f"{path} is there already", "name a file that is not") from None
    except OSError as error:
        raise IdaError(f"cannot write {path}: {error.strerror}", "name another file") from None
    print(printable(f"✓ {cache.count():,} verdicts written to {path}"))
    return ExitCode.DONE


def _clear(cache: VerdictCache, *, asked: bool) -> ExitCode:
    count = cache.count()
    if asked and count:
        if not sys.stdin.isatty():
            raise UsageError("nobody is there to be asked", "ida-tui cache clear --yes")
        answer = input(f"Forget {count:,} verdicts? They were paid for. [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            print("Nothing was cleared.")
            return ExitCode.DONE
    print(f"✓ {cache.clear():,} verdicts forgotten")
    return ExitCode.DONE
