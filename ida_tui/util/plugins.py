"""What other installed packages offer: judges and formulas, as entry points.

    [project.entry-points."ida_tui.judges"]
    keywords = "ida_keywords:Keywords"

Nothing of a package is imported before a profile or a command line names it; to look whether it is there
reads metadata only. A package that is named runs with all that this process may do.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.util.text import quoted

JUDGES = "ida_tui.judges"
FORMULAS = "ida_tui.formulas"
_THING = {JUDGES: "judge", FORMULAS: "formula"}


def names(group: str) -> list[str]:
    """The names that installed packages offer in a group, sorted."""
    return sorted({entry.name for entry in entry_points(group=group)})


def find(group: str, name: str) -> EntryPoint:
    """The entry point of a name; its package is not imported.

    Raises:
        UsageError: no installed package offers it, or several do.
    """
    found = {entry.value: entry for entry in entry_points(group=group, name=name)}
    if len(found) > 1:
        packages = " and ".join(sorted(words(entry) for entry in found.values()))
        raise UsageError(
            f"several packages offer the {_THING[group]} {quoted(name)}: {packages}",
            "uninstall all but one of them",
        )
    if not found:
        known = names(group)
        raise UsageError(
            f"no installed package offers a {_THING[group]} {quoted(name)} (entry points {group})",
            f"there are: {', '.join(known)}"
            if known
            else "install the package that has it, into the environment of ida-tui",
        )
    return next(iter(found.values()))


def load(group: str, name: str) -> object:
    """What an entry point stands for; its package is imported.

    Raises:
        UsageError: there is none, or more than one.
        IdaError: it cannot be imported.
    """
    entry = find(group, name)
    try:
        return entry.load()
    except Exception as error:
        # Somebody else's code: whatever it does is told with its name.
        raise broken(group, entry, error) from error


def broken(group: str, entry: EntryPoint, error: BaseException) -> IdaError:
    """The error of an entry point that cannot be used."""
    why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return IdaError(
        f"the {_THING[group]} {words(entry)} cannot be used: {why}",
        f"mend or reinstall that package, or take another {_THING[group]}",
        code=ExitCode.USAGE,
    )


def words(entry: EntryPoint) -> str:
    """An entry point and where it comes from: ``"plain" (plain_judge:Plain of plain-judge 0.1.0)``."""
    of = f" of {entry.dist.name} {entry.dist.version}" if entry.dist is not None else ""
    return f"{quoted(entry.name)} ({entry.value}{of})"
