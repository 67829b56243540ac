"""What could stand at the cursor: commands, flags, profiles, runs, keys and their values.

Everything follows from the parsers themselves: a flag's choices, or what its metavar calls for (`PROFILE`,
`RUN`, `JUDGE`, `FILE`, `key=value`). Nothing heavy is imported and no profile is read, for somebody waits.
"""

from __future__ import annotations

import os
import shlex
from argparse import Action, ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ida_tui.cli.completion import config_keys as keys
from ida_tui.config import profiles

OUTPUTS = Path("outputs")
RESCORE = ("formula=", "weights.align=", "weights.risk=", "weights.detail=", "scale_rewards=")
GOES_ON = ("=", ".", "/")
"""A candidate that ends so is not yet a whole word."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A word, and what it is in a line."""

    text: str
    about: str = ""


@dataclass(frozen=True, slots=True)
class Grammar:
    """The parsers of the command line."""

    top: Callable[[], ArgumentParser]
    word: Callable[[str], ArgumentParser]
    words: Mapping[str, str]
    """The commands that are words, and what they do."""


def answer(shell: str, arguments: Sequence[str], grammar: Grammar) -> list[str]:
    """The lines that a shell's script reads.

    Args:
        shell: ``bash``, ``zsh`` or ``fish``.
        arguments: bash: the characters at which it breaks words, and the line up to the cursor; the others:
            the words after the command, the last one up to the cursor.
        grammar: the parsers.
    """
    if shell != "bash":
        found = candidates(list(arguments) or [""], grammar)
        return [f"{one.text}\t{one.about}".rstrip("\t") for one in found]
    breaks, line = (*arguments, "", "")[:2]
    words = split(line)[1:] or [""]
    # bash replaces only what follows the last of its breaks.
    kept = max((words[-1].rfind(mark) for mark in "=:" if mark in breaks), default=-1) + 1
    found = candidates(words, grammar)
    return [one.text[kept:] + " " * (not one.text.endswith(GOES_ON)) for one in found]


def split(line: str) -> list[str]:
    """A line's words, the last one empty after a space; an open quote ends with the line."""
    for end in ("", "'", '"'):
        try:
            words = shlex.split(line + end)
        except ValueError:
            continue
        return [*words, ""] if line[-1:].isspace() and not end else words
    return line.split()


def candidates(words: Sequence[str], grammar: Grammar) -> list[Candidate]:
    """What the last word could become.

    Args:
        words: those after the command; the last one is what was typed of it, and may be empty.
        grammar: the parsers.
    """
    *before, current = words
    named = before[0] if before and before[0] in grammar.words else ""
    parser = grammar.word(named) if named else grammar.top()
    found = list(_in_place(named, before[bool(named) :], current, parser))
    if not before:
        found = [Candidate(word, about) for word, about in grammar.words.items()] + found
    return [one for one in dict.fromkeys(found) if one.text.startswith(current)]


def _in_place(
    named: str, before: Sequence[str], current: str, parser: ArgumentParser
) -> Iterator[Candidate]:
    options = {text: action for action in parser._actions for text in action.option_strings}
    places = [action for action in parser._actions if not action.option_strings]
    pending: Action | None = None
    count = 0
    for word in before:
        if pending is None and word in options:
            pending = options[word] if options[word].nargs != 0 else None
        elif pending is not None:
            pending = None
        else:
            count += 1
    if pending is not None:
        yield from _values(named, pending, current)
        return
    at_first = not named and not before
    if current.startswith("-") or at_first:
        for text, action in options.items():
            if text.startswith("--") and text not in before:
                yield Candidate(text, action.help or "")
    if not named and not any(word in options for word in before):
        return  # a command or a flag comes first; values come with them
    while places and count > 0 and places[0].nargs in (None, "?"):
        places, count = places[1:], count - 1
    if places:
        yield from _values(named, places[0], current)


def _values(named: str, action: Action, current: str) -> Iterator[Candidate]:
    """What an argument could be."""
    if action.choices is not None:
        yield from (Candidate(str(choice)) for choice in action.choices)
        return
    if (named, action.dest) == ("rescore", "words"):
        yield from map(Candidate, RESCORE)
        return
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    wanted = metavar.split() or [action.dest.upper()]
    if action.dest == "judge":
        wanted = ["JUDGE"]
    for word in wanted:
        match word.partition("=")[0]:
            case "PROFILE":
                yield from map(Candidate, profiles.names("experiments"))
                yield from _paths(current, ".yaml") if "/" in current else ()
            case "JUDGE":
                yield from map(Candidate, profiles.names("judges"))
            case "RUN":
                yield from _runs(current)
            case "EXPERIMENT":
                yield from (Candidate(name) for name, _ in _experiments())
            case "KIND":
                yield from map(Candidate, profiles.KINDS)
            case "FILE":
                yield from _paths(current)
            case "key":
                yield from _overrides(current)


def _overrides(current: str) -> Iterator[Candidate]:
    """Keys section by section, then the values of one."""
    key, equals, _ = current.partition("=")
    *path, last = key.split(".")
    if not equals:
        prefix = "".join(f"{part}." for part in path)
        for one in keys.below(path):
            names_one = not path and one.name in profiles.SECTIONS
            if one.section:
                yield Candidate(f"{prefix}{one.name}.", one.about)
            if names_one or not one.section:
                yield Candidate(f"{prefix}{one.name}=", one.about)
    elif not path and last in profiles.SECTIONS:
        for name in profiles.names(profiles.SECTIONS[last]):
            yield Candidate(f"{key}={name}")
    else:
        for one in keys.below(path):
            if one.name == last:
                yield from (Candidate(f"{key}={value}") for value in one.values)


def _experiments() -> Iterator[tuple[str, Path]]:
    """The experiments that have runs here."""
    yield from ((path.name, path) for path in _folders(OUTPUTS))


def _runs(current: str) -> Iterator[Candidate]:
    """Experiments, for their newest run; the runs of one after its slash, newest first; folders."""
    experiment, slash, _ = current.partition("/")
    for name, path in _experiments():
        if not slash:
            yield Candidate(name, "its newest run")
        if slash and name == experiment:
            for run in reversed(_folders(path)):
                yield Candidate(f"{name}/{run.name}")
    if slash:
        yield from (one for one in _paths(current) if one.text.endswith("/"))


def _folders(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [path / name for name in sorted(found) if not name.startswith(".")]


def _paths(current: str, *endings: str) -> Iterator[Candidate]:
    """Files and folders that begin so."""
    folder, slash, _ = current.rpartition("/")
    at = Path(folder + slash or ".").expanduser()
    try:
        with os.scandir(at) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries)
    except OSError:
        return
    for name, is_folder in found:
        if not name.startswith(".") and (is_folder or not endings or name.endswith(endings)):
            yield Candidate(f"{folder}{slash}{name}{'/' * is_folder}")
