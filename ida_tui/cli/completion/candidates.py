"""Completion candidates at the cursor: commands, flags, profiles, runs, keys and values.

All candidates are derived from the argument parsers: from an argument's choices, or from its metavar
(`PROFILE`, `RUN`, `JUDGE`, `FILE`, `key=value`). To answer quickly, no heavy library is imported and no
profile is read.
"""

from __future__ import annotations

import os
import shlex
from argparse import Action, ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ida_tui.cli.completion import config_keys
from ida_tui.config import profiles

OUTPUTS_FOLDER = Path("outputs")
RESCORE_OPTIONS = (
    "formula=",
    "weights.align=",
    "weights.risk=",
    "weights.detail=",
    "scale_rewards=",
)
INCOMPLETE_ENDINGS = ("=", ".", "/")
"""Endings of candidates that are not complete words, so that no space follows them."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A completion and its one-line description."""

    text: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class CommandParsers:
    """The argument parsers of the command line."""

    main_parser: Callable[[], ArgumentParser]
    command_parser: Callable[[str], ArgumentParser]
    summaries: Mapping[str, str]
    """The subcommands and their summaries."""


def completion_lines(shell: str, arguments: Sequence[str], parsers: CommandParsers) -> list[str]:
    """The output lines for a shell's completion script.

    Args:
        shell: `bash`, `zsh` or `fish`.
        arguments: for bash, its word-break characters and the line up to the cursor; for zsh and fish, the
            words after the command, the last one up to the cursor.
        parsers: the parsers of the commands.
    """
    if shell != "bash":
        matching = complete_words(list(arguments) or [""], parsers)
        return [f"{candidate.text}\t{candidate.description}".rstrip("\t") for candidate in matching]
    breaks, line = (*arguments, "", "")[:2]
    words = split_line(line)[1:] or [""]
    # bash replaces only the text after the last break character.
    replaced_from = max((words[-1].rfind(mark) for mark in "=:" if mark in breaks), default=-1) + 1
    matching = complete_words(words, parsers)
    return [
        candidate.text[replaced_from:] + " " * (not candidate.text.endswith(INCOMPLETE_ENDINGS))
        for candidate in matching
    ]


def split_line(line: str) -> list[str]:
    """The words of a line; the last one is empty after a space. An open quote is closed at the end."""
    for end in ("", "'", '"'):
        try:
            words = shlex.split(line + end)
        except ValueError:
            continue
        return [*words, ""] if line[-1:].isspace() and not end else words
    return line.split()


def complete_words(words: Sequence[str], parsers: CommandParsers) -> list[Candidate]:
    """The completions of the last word.

    Args:
        words: the words after `ida-tui`; the last one is incomplete and may be empty.
        parsers: the parsers of the commands.
    """
    *previous, current = words
    command = previous[0] if previous and previous[0] in parsers.summaries else ""
    parser = parsers.command_parser(command) if command else parsers.main_parser()
    results = list(_candidates_at_cursor(command, previous[bool(command) :], current, parser))
    if not previous:
        results = [
            Candidate(word, summary) for word, summary in parsers.summaries.items()
        ] + results
    return [candidate for candidate in dict.fromkeys(results) if candidate.text.startswith(current)]


def _candidates_at_cursor(
    command: str, previous: Sequence[str], current: str, parser: ArgumentParser
) -> Iterator[Candidate]:
    options = {text: action for action in parser._actions for text in action.option_strings}
    positionals = [action for action in parser._actions if not action.option_strings]
    pending: Action | None = None
    count = 0
    for word in previous:
        if pending is None and word in options:
            pending = options[word] if options[word].nargs != 0 else None
        elif pending is not None:
            pending = None
        else:
            count += 1
    if pending is not None:
        yield from _argument_candidates(command, pending, current)
        return
    first_word = not command and not previous
    if current.startswith("-") or first_word:
        for text, action in options.items():
            if text.startswith("--") and text not in previous:
                yield Candidate(text, action.help or "")
    if not command and not any(word in options for word in previous):
        return  # values are only valid after a command or a flag
    while positionals and count > 0 and positionals[0].nargs in (None, "?"):
        positionals, count = positionals[1:], count - 1
    if positionals:
        yield from _argument_candidates(command, positionals[0], current)


def _argument_candidates(command: str, action: Action, current: str) -> Iterator[Candidate]:
    """The possible values of an argument."""
    if action.choices is not None:
        yield from (Candidate(str(choice)) for choice in action.choices)
        return
    if (command, action.dest) == ("rescore", "words"):
        yield from map(Candidate, RESCORE_OPTIONS)
        return
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    kinds = metavar.split() or [action.dest.upper()]
    if action.dest == "judge":
        kinds = ["JUDGE"]
    for kind in kinds:
        match kind.partition("=")[0]:
            case "PROFILE":
                yield from map(Candidate, profiles.list_profiles("experiments"))
                yield from _path_candidates(current, ".yaml") if "/" in current else ()
            case "JUDGE":
                yield from map(Candidate, profiles.list_profiles("judges"))
            case "RUN":
                yield from _run_candidates(current)
            case "EXPERIMENT":
                yield from (Candidate(name) for name, _ in _experiment_folders())
            case "KIND":
                yield from map(Candidate, profiles.PROFILE_KINDS)
            case "FILE":
                yield from _path_candidates(current)
            case "key":
                yield from _override_candidates(current)


def _override_candidates(current: str) -> Iterator[Candidate]:
    """Keys, one section at a time; after the equals sign, the values of a key."""
    key, equals, _ = current.partition("=")
    *path, last = key.split(".")
    if not equals:
        prefix = "".join(f"{part}." for part in path)
        for config_key in config_keys.keys_below(path):
            names_profile = not path and config_key.name in profiles.SECTIONS
            if config_key.section:
                yield Candidate(f"{prefix}{config_key.name}.", config_key.description)
            if names_profile or not config_key.section:
                yield Candidate(f"{prefix}{config_key.name}=", config_key.description)
    elif not path and last in profiles.SECTIONS:
        for name in profiles.list_profiles(profiles.SECTIONS[last]):
            yield Candidate(f"{key}={name}")
    else:
        for config_key in config_keys.keys_below(path):
            if config_key.name == last:
                yield from (Candidate(f"{key}={value}") for value in config_key.values)


def _experiment_folders() -> Iterator[tuple[str, Path]]:
    """The experiments that have runs in the output folder."""
    yield from ((path.name, path) for path in _subfolders(OUTPUTS_FOLDER))


def _run_candidates(current: str) -> Iterator[Candidate]:
    """Experiments; after a slash, the runs of that experiment (newest first) and folders."""
    experiment, slash, _ = current.partition("/")
    for name, path in _experiment_folders():
        if not slash:
            yield Candidate(name, "its newest run")
        if slash and name == experiment:
            for run in reversed(_subfolders(path)):
                yield Candidate(f"{name}/{run.name}")
    if slash:
        yield from (
            candidate for candidate in _path_candidates(current) if candidate.text.endswith("/")
        )


def _subfolders(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [path / name for name in sorted(names) if not name.startswith(".")]


def _path_candidates(current: str, *suffixes: str) -> Iterator[Candidate]:
    """Files and folders that start with `current`."""
    folder, slash, _ = current.rpartition("/")
    parent = Path(folder + slash or ".").expanduser()
    try:
        with os.scandir(parent) as entries:
            sorted_entries = sorted((entry.name, entry.is_dir()) for entry in entries)
    except OSError:
        return
    for name, is_folder in sorted_entries:
        if not name.startswith(".") and (is_folder or not suffixes or name.endswith(suffixes)):
            yield Candidate(f"{folder}{slash}{name}{'/' * is_folder}")
