"""Completers of argument values: profiles, judges, runs, files, override keys and their values.

They are attached to the arguments of a parser by metavar (`PROFILE`, `RUN`, `key=value`). No heavy library is
imported and no profile is read: the override keys are in `config_keys.json`, which
`scripts/write_reference.py` writes from the config classes.
"""

from __future__ import annotations

import json
import os
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from ida_tui.config import profiles

OUTPUTS_FOLDER = Path("outputs")
KEYS_FILE = Path(__file__).with_name("config_keys.json")
"""Override keys as typed (`seed=`, `training.`) with their descriptions, and the values of a key."""
RESCORE_SETTINGS = (
    "formula=",
    "weights.align=",
    "weights.risk=",
    "weights.detail=",
    "scale_rewards=",
)

Complete = Callable[[str], Mapping[str, str] | Iterable[str]]
"""The candidates for an incomplete word, with or without descriptions; others may be among them."""


def attach_completers(parser: ArgumentParser) -> None:
    """Give each argument of a parser the completers of its metavar."""
    for action in parser._actions:
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        kinds = [COMPLETERS[kind] for kind in metavar.split() if kind in COMPLETERS]
        if kinds:
            action.completer = partial(_complete_argument, kinds)  # type: ignore[attr-defined]


def _complete_argument(
    kinds: Sequence[Complete], *, prefix: str, action: Action, parsed_args: Namespace, **_: object
) -> dict[str, str]:
    """The candidates of the first kind that has any; an argument's first kind is for its first word."""
    if len(kinds) > 1 and getattr(parsed_args, action.dest, None):
        kinds = kinds[1:]
    for complete in kinds:
        offered = complete(prefix)
        descriptions = offered if isinstance(offered, Mapping) else dict.fromkeys(offered, "")
        candidates = {
            text: about
            for text, about in descriptions.items()
            # A file name with control characters would split candidates, or reach the terminal.
            if text.startswith(prefix) and text.isprintable()
        }
        if candidates:
            return candidates
    return {}


def _complete_profiles(prefix: str) -> Iterator[str]:
    yield from profiles.list_profiles("experiments")
    if "/" in prefix:
        yield from (path for path in _complete_paths(prefix) if path.endswith((".yaml", "/")))


def _complete_overrides(prefix: str) -> dict[str, str]:
    """Keys, one section at a time; after the equals sign, the values of a key."""
    table = json.loads(KEYS_FILE.read_text(encoding="utf-8"))
    key, equals, _ = prefix.partition("=")
    if equals:
        kind = profiles.SECTIONS.get(key)
        values = profiles.list_profiles(kind) if kind else table["values"].get(key, ())
        return {f"{key}={value}": "" for value in values}
    matching = {word: about for word, about in table["keys"].items() if word.startswith(prefix)}
    depth = prefix.count(".")
    while True:
        words = [word for word in matching if word.rstrip(".").count(".") == depth]
        # A shell writes no space after an equals sign, but one after the period of a lone section.
        if not words or any(word.endswith("=") for word in words):
            # zsh decides by the first candidate whether a space follows.
            return {word: matching[word] for word in sorted(words, key=lambda w: w[-1] != "=")}
        depth += 1


def _complete_runs(prefix: str) -> dict[str, str]:
    """Experiments; after a slash, the runs of that experiment (newest first) and folders."""
    experiment, slash, _ = prefix.partition("/")
    if not slash:
        return dict.fromkeys(_complete_experiments(prefix), "its newest run")
    runs = reversed(_subfolders(OUTPUTS_FOLDER / experiment)) if experiment else ()
    return dict.fromkeys([*(f"{experiment}/{run}" for run in runs), *_complete_folders(prefix)], "")


def _complete_experiments(_prefix: str) -> list[str]:
    return _subfolders(OUTPUTS_FOLDER)


def _complete_folders(prefix: str) -> Iterator[str]:
    yield from (path for path in _complete_paths(prefix) if path.endswith("/"))


def _complete_paths(prefix: str) -> Iterator[str]:
    """Files and folders whose names start like the prefix; a folder ends in a slash."""
    folder, slash, _ = prefix.rpartition("/")
    try:
        with os.scandir(Path(folder + slash or ".").expanduser()) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries)
    except (OSError, RuntimeError):  # unreadable, or the folder of an unknown ~user
        return
    for name, is_folder in found:
        if not name.startswith("."):
            yield f"{folder}{slash}{name}{'/' * is_folder}"


def _subfolders(path: Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return sorted(name for name in names if not name.startswith("."))


COMPLETERS: Mapping[str, Complete] = {
    "PROFILE": _complete_profiles,
    "JUDGE": lambda _: profiles.list_profiles("judges").keys(),
    "RUN": _complete_runs,
    "EXPERIMENT": _complete_experiments,
    "KIND": lambda _: profiles.PROFILE_KINDS,
    "FILE": _complete_paths,
    "DIR": _complete_folders,
    "key=value": _complete_overrides,
    "key=a,b,c": _complete_overrides,
    "setting=value": lambda _: RESCORE_SETTINGS,
}
"""The completer of each metavar."""
